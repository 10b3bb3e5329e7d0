#!/usr/bin/env python3
"""Random and damaged domain XMLs against the real driver and real QEMU: each is refused, or starts; nothing stays.

Usage: bench/fuzz.py [--cases N] [--seed N] [--only CASE] [--jobs N] [--json FILE]

A case is drawn from the seed and its number: a golden of tests/golden with a few accidents (bytes, truncation,
repetition, swapped elements, other values), a domain put together of the devices of several goldens, or one grown
from the vocabulary of libvirt's schema. It is defined and undefined, then started paused and destroyed. It must raise
libvirtError (one without a cause: that is a defect below the API) or work, within the deadline; afterwards the
process has the descriptors, threads and children that it had before, the root holds the files it held, and nothing
else was made but what the XML names. Cases run in processes of their own, so that a crash or a hang ends one of these
only.

Every path that a case names is moved into a scratch directory, every address to the loopback; locked memory and words
for QEMU's command line are taken out.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import faulthandler
import functools
import json
import logging
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from lxml import etree

from pytest_embedvm import libvirt
from pytest_embedvm.domain import model
from pytest_embedvm.domain.vocabulary import _nodes
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.qemu.binary import find_binary

#: A case that takes longer hangs: the driver's own deadlines are shorter, but for those of a start.
DEADLINE_S: Final = 60.0
GOLDENS: Final = Path(__file__).parent.parent / "tests/golden"
QEMU: Final = str(find_binary())
#: What of the host a case may name, as it is: devices that nobody can harm.
HARMLESS: Final = frozenset({QEMU, "/dev/urandom", "/dev/random", "/dev/null", "/dev/zero"})
#: Elements and attributes whose file has to be there; what others name QEMU makes itself.
READ: Final = frozenset({"file", "dev", "kernel", "initrd", "loader", "nvram", "template"})
IMAGE_BYTES: Final = 1 << 20
#: A process of its own for so many cases.
BATCH: Final = 250

WORDS: Final = """
    0 -1 1 2 3 255 256 65536 4294967295 4294967296 18446744073709551616 99999999999999999999999999 0x 0xffffffff 1_0
    +1 1e3 ² ٣ yes no on off default ../../x a/b a,b a=b %s {} {fd} virtio pci scsi sata ide usb q35 pc none block file
    user network vda hda fda sda vdzz cdrom floppy lun qcow2 raw unix pty tcp udp null bind connect EiB KiB MiB
    52:54:00:00:00:01 ::1 1.2 127.0.0.1 名 /dev/null /dev/zero /R/new /R/file /R a\x7fb
""".split()

#: Sound, and it has the driver make all directories of the root.
FIRST: Final = """<domain type='qemu'><name>first</name><memory unit='MiB'>16</memory>
  <os firmware='efi'><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
  <devices><graphics type='vnc' passwd='first'><listen type='socket'/></graphics></devices></domain>"""

_VALUE: Final = re.compile(r"=(['\"])(.*?)\1|>([^<>\n]*)</")
_ELEMENT: Final = re.compile(r"<(\w+)\b[^>]*?/>|<(\w+)\b.*?</\2>", re.DOTALL)


# Cases


@functools.cache
def goldens() -> tuple[str, ...]:
    return tuple(path.read_text() for path in sorted(GOLDENS.glob("*.xml")))


@functools.cache
def _devices() -> tuple[str, ...]:
    found = {
        etree.tostring(device, encoding="unicode").strip()
        for text in goldens()
        for device in etree.fromstring(text).iterfind("devices/*")
        if device.tag not in ("emulator", "controller")
    }
    return tuple(sorted(found))


@functools.cache
def _known_values() -> dict[str, tuple[str, ...]]:
    """What an attribute or element of some name may hold: what goldens and the model's own types say."""
    found: dict[str, set[str]] = collections.defaultdict(set)
    for text in goldens():
        for element in etree.fromstring(text).iter(etree.Element):
            found[etree.QName(element).localname].add((element.text or "").strip())
            for name, value in element.attrib.items():
                found[str(name)].add(str(value))
    for name, word in _literals():
        found[name].add(word)
    return {name: tuple(sorted(values)) for name, values in found.items()}


def _literals() -> Iterator[tuple[str, str]]:
    """The fields of the model that take one of a few words, and each word."""
    for path in Path(model.__file__).parent.rglob("*.py"):
        for name, words in re.findall(r"(\w+):[^=\n]*?Literal\[(.*?)\]", path.read_text(), re.DOTALL):
            yield from ((name, word) for word in re.findall(r'"([^"]+)"', words))


def _value(chance: random.Random, name: str) -> str:
    known = _known_values().get(name)
    return chance.choice(known) if known and chance.random() < 0.9 else chance.choice(["", "x" * 3000, *WORDS])


def _grow(chance: random.Random, element: etree._Element, node: str, depth: int) -> None:
    """Put attributes and elements that libvirt's schema knows there into ELEMENT, which is NODE of the vocabulary."""
    for item, target in _nodes()[node].items():
        name = item.removeprefix("@")
        if "*" in name or chance.random() > (0.2 if depth else 0.02):
            continue
        with contextlib.suppress(ValueError):
            if item.startswith("@"):
                element.set(name, _value(chance, name))
            elif depth < 4:
                child = etree.SubElement(element, name)
                _grow(chance, child, target, depth + 1)
                if not len(child) and chance.random() < 0.7:
                    child.text = _value(chance, name)


def grown(chance: random.Random) -> str:
    """A sound domain, and on it one to three things out of the vocabulary."""
    root = etree.fromstring(assembled(chance, 1))
    devices = root.find("devices")
    for _ in range(chance.randint(1, 3)):
        where = chance.random()
        if where < 0.6 and devices is not None:
            name, node = chance.choice([(n, t) for n, t in _nodes()["devices"].items() if n != "emulator"])
            _grow(chance, etree.SubElement(devices, name), node, 1)
        elif where < 0.9:
            name, node = chance.choice([(n, t) for n, t in _nodes()["domain"].items() if t and n[0] not in "{@"])
            found = root.find(name)
            _grow(chance, etree.SubElement(root, name) if found is None else found, node, 1)
        else:
            _grow(chance, root, "domain", 0)
    return etree.tostring(root, encoding="unicode")


def assembled(chance: random.Random, most: int = 5) -> str:
    """A sound head, and devices of several goldens; mostly one in a place."""
    machine = chance.choice(["q35", "q35", "pc"])
    devices: dict[str, str] = {}
    for device in chance.choices(_devices(), k=chance.randint(0, most)):
        element = etree.fromstring(device)
        if chance.random() < 0.9:
            for address in element.findall("address"):
                element.remove(address)
        target = element.find("target")
        place = element.tag if target is None else str(target.get("dev", target.get("name", element.tag)))
        devices[place if chance.random() < 0.9 else f"{place}'"] = etree.tostring(element, encoding="unicode")
    return f"""<domain type='qemu'><name>a</name><memory unit='MiB'>{chance.choice([16, 64])}</memory>
      <vcpu>{chance.randint(1, 4)}</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type></os>
      <devices>{"".join(devices.values())}</devices></domain>"""


def _other_value(chance: random.Random, text: str) -> str:
    spots = list(_VALUE.finditer(text))
    if not spots:
        return text
    spot = chance.choice(spots)
    group = 2 if spot[2] is not None else 3
    name = re.search(r"(\w+)$", text[: spot.start()])
    return text[: spot.start(group)] + _value(chance, name[1] if name else "") + text[spot.end(group) :]


def _other_element(chance: random.Random, text: str) -> str:
    spots = list(_ELEMENT.finditer(text, text.find("<os>") + 1))
    if not spots:
        return text
    one, two = chance.choice(spots), chance.choice(spots)
    foreign = chance.choice(list(_ELEMENT.finditer(chance.choice(goldens()), 20)) or [one])[0]
    new = chance.choice(["", one[0] * 2, foreign + one[0], foreign, two[0]])
    return text[: one.start()] + new + text[one.end() :]


def _other_bytes(chance: random.Random, text: str) -> str:
    raw = bytearray(text.encode(errors="surrogateescape"))
    at = chance.randrange(len(raw) or 1)
    match chance.randrange(4):
        case 0:
            raw[at : at + 1] = bytes([(raw[at] if raw else 0) ^ (1 << chance.randrange(8))])
        case 1:
            raw[at : at + chance.randint(0, 20)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 4)))
        case 2:
            del raw[at:]
        case 3:
            raw[at:at] = raw[at : at + chance.randint(1, 200)]
    return raw.decode(errors="replace")


def damaged(chance: random.Random) -> str:
    """A golden, or devices of several, with one to four accidents."""
    text = chance.choice(goldens()) if chance.random() < 0.7 else assembled(chance)
    accidents = chance.choices(
        (_other_value, _other_element, _other_bytes), (5, 3, 2), k=chance.choices((1, 2, 3, 4), (6, 3, 2, 1))[0]
    )
    for accident in accidents:
        text = accident(chance, text)
    return text


def case(chance: random.Random) -> str:
    return chance.choices((damaged, grown, assembled), (5, 3, 2))[0](chance)


# What makes them harmless


class Scratch:
    """The directory that every path of a case is moved into, with files to be found there."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.named: set[str] = set()
        shutil.rmtree(base, ignore_errors=True)
        base.mkdir()

    def tame(self, text: str) -> str:
        """TEXT without what could do harm, or reach beyond this host; as it is where the driver cannot read it."""
        try:
            root = etree.fromstring(text, etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False))
        except (etree.XMLSyntaxError, ValueError):
            return text
        for element in list(root.iter(etree.Element)):
            name = etree.QName(element).localname
            if name in ("commandline", "locked") and element.getparent() is not None:
                element.getparent().remove(element)
                continue
            for attribute, value in element.attrib.items():
                element.set(attribute, self._value(str(attribute), str(value), element))
            if element.text and element.text.strip():
                element.text = self._value(name, element.text, element)
            if name == "portForward":
                element.set("address", "127.0.0.1")
        return etree.tostring(root, encoding="unicode")

    def _value(self, name: str, value: str, element: etree._Element) -> str:
        tag = etree.QName(element).localname
        if name in ("host", "address", "listen") and (tag in ("source", "listen", "graphics")):
            return "127.0.0.1" if value else value
        if tag == "emulator":
            return QEMU if value.strip() == QEMU else "/nonexistent"
        relative = name in ("path", "file", "socket", "logFile", "dir") or (name, tag) == ("dev", "source")
        if "/" not in value and not relative:
            return value
        if value.strip() in HARMLESS:
            return value.strip()
        return self._place(value.strip(), to_be_read=name in READ)

    def _place(self, value: str, *, to_be_read: bool) -> str:
        name = re.sub(r"[^\w.@-]|^\.+", "_", value.strip("/"))[-60:] or "_"
        path = self.base / name
        self.named.add(str(path))
        with contextlib.suppress(OSError, ValueError):
            if to_be_read and "new" not in name:
                path.write_bytes(b"")
                os.truncate(path, IMAGE_BYTES)
        return str(path)

    def unnamed(self) -> list[str]:
        """What was made and was not named."""
        return [str(path) for path in self.base.rglob("*") if str(path) not in self.named]

    def clear(self) -> None:
        self.named.clear()
        for path in self.base.iterdir():
            path.unlink() if not path.is_dir() else shutil.rmtree(path)


# Running them


@dataclass
class Tally:
    """What became of the cases."""

    cases: int = 0
    defined: int = 0
    started: int = 0
    #: Each refusal's code, and how often.
    refused: collections.Counter[int] = field(default_factory=collections.Counter)
    #: Cases in which QEMU itself crashed, rather than refuse: no defect of the driver's, and none that it should hide.
    crashes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    slowest_s: float = 0

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.defined += other.defined
        self.started += other.started
        self.refused += other.refused
        self.crashes += other.crashes
        self.wrong += other.wrong
        self.slowest_s = max(self.slowest_s, other.slowest_s)

    def to_json(self) -> str:
        return json.dumps({**vars(self), "refused": dict(self.refused)})

    @classmethod
    def from_json(cls, text: str) -> Tally:
        fields = json.loads(text)
        fields["refused"] = collections.Counter({int(code): count for code, count in fields["refused"].items()})
        return cls(**fields)


class Fuzz:
    """One connection to one root, and what must be the same after each case."""

    def __init__(self, base: Path) -> None:
        self.scratch = Scratch(base / "scratch")
        self.root = base / "root"
        self.temporary = base / "tmp"
        self.temporary.mkdir(exist_ok=True)
        self.tally = Tally()
        self.connection = libvirt.open(make_uri(self.root))
        list(self._try(FIRST))  # what is made once: a probe, directories, the loop's threads
        self.before = self._state()

    def close(self) -> None:
        self.connection.close()

    def _state(self) -> dict[str, set[str]]:
        """Everything that a case must leave as it was; logs are there to stay."""
        descriptors = collections.Counter(re.sub(r"\d+", "N", target) for target in _descriptors())
        kept = self.root / "lib/swtpm", self.root / "log/swtpm"  # a TPM with persistent_state='yes' is there to stay
        found = (path for path in self.root.rglob("*") if not any(path.is_relative_to(place) for place in kept))
        tree = {str(path.relative_to(self.root)) for path in found if path.suffix != ".log"}
        children = {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}
        return {
            "file": tree | {str(path) for path in self.temporary.iterdir()},
            "descriptor": {f"{target} #{n}" for target, count in descriptors.items() for n in range(count)},
            "thread": {thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio_")},
            "process": children,
            "domain": {domain.name() for domain in self.connection.listAllDomains()},
            "shared memory": {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set(),
        }

    def run(self, text: str) -> list[str]:
        """What is wrong after TEXT was tried, in sentences; nothing, if all is well."""
        began = time.monotonic()
        wrong = list(self._try(self.scratch.tame(text)))
        after = self._state()
        for kind, things in after.items():
            wrong += [f"{kind} stayed: {thing}" for thing in sorted(things - self.before[kind])]
            wrong += [f"{kind} went: {thing}" for thing in sorted(self.before[kind] - things)]
        wrong += [f"file was made: {path}" for path in self.scratch.unnamed()]
        self.before = after
        self.scratch.clear()
        self.tally.cases += 1
        self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - began)
        return wrong

    def _try(self, text: str) -> Iterator[str]:
        for attempt in (self._define, self._start):
            try:
                attempt(text)
            except libvirt.libvirtError as error:
                yield from self._refusal(error)
            except Exception as error:  # noqa: BLE001 - it is what is looked for
                # libvirt-python too cannot pass on text with a zero in it
                if not (isinstance(error, ValueError) and "\0" in text):
                    yield f"{attempt.__name__}: {error!r}"
        for kept in ("log/qemu/*", "log/qemu/console/*", "lib/qemu/nvram/*"):  # a transient domain leaves these
            for path in self.root.glob(kept):
                if path.is_dir() and path.name != "console":
                    shutil.rmtree(path)
                elif not path.is_dir():
                    path.unlink()

    def _define(self, text: str) -> None:
        domain = self.connection.defineXML(text)
        domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        self.tally.defined += 1

    def _start(self, text: str) -> None:
        domain = self.connection.createXML(text, libvirt.VIR_DOMAIN_START_PAUSED)
        domain.XMLDesc(0)
        domain.destroy()
        self.tally.started += 1

    def _refusal(self, error: libvirt.libvirtError) -> Iterator[str]:
        self.tally.refused[error.get_error_code()] += 1
        if error.__cause__ is not None:
            yield f"{error}, because of {error.__cause__!r}"
        if re.search(r"exit status is -|Assertion|assertion", str(error)):
            self.tally.crashes.append(str(error))


def _descriptors() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            yield os.readlink(link)  # noqa: PTH115 - "socket:[1]" is no path


def child(seed: int, first: int, last: int, base: Path) -> None:
    """Cases FIRST to LAST, in this process; says which one it is at, and the tally in the end."""
    logging.getLogger("pytest_embedvm").setLevel(logging.CRITICAL)
    os.chdir(base)
    fuzz = Fuzz(base)
    for number in range(first, last):
        print(f"case {number}", flush=True)
        faulthandler.dump_traceback_later(DEADLINE_S, exit=True)
        text = case(random.Random(f"{seed}/{number}"))
        wrong = fuzz.run(text)
        fuzz.tally.wrong += [f"case {number}: {sentence}" for sentence in wrong]
    faulthandler.cancel_dump_traceback_later()
    fuzz.close()
    print(f"tally {fuzz.tally.to_json()}", flush=True)


def batch(seed: int, first: int, last: int) -> Tally:
    """Cases FIRST to LAST in a process of their own; in another one from behind a case that ended it."""
    whole = Tally()
    while first < last:
        with tempfile.TemporaryDirectory(prefix="embedvm-fuzz-", ignore_cleanup_errors=True) as base:
            words = [sys.executable, __file__, "--seed", str(seed), "--child", str(first), str(last), base]
            environment = {**os.environ, "TMPDIR": f"{base}/tmp", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
            done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
        lines = done.stdout.splitlines()
        if lines and lines[-1].startswith("tally "):
            whole.add(Tally.from_json(lines[-1].removeprefix("tally ")))
            break
        at = int(lines[-1].split()[1]) if lines else first
        whole.wrong.append(f"case {at}: the process ended with status {done.returncode}:\n{done.stderr[-6000:]}")
        whole.cases += at - first + 1
        first = at + 1
    return whole


def report(tally: Tally, seed: int) -> str:
    refusals = ", ".join(f"{code}: {count}" for code, count in tally.refused.most_common())
    return "\n".join(
        (
            f"cases                          {tally.cases} (seed {seed})",
            f"  could be defined             {tally.defined}",
            f"  started on real QEMU         {tally.started}",
            f"refusals, by libvirt's code    {refusals}",
            f"slowest case                   {tally.slowest_s:.1f} s (deadline {DEADLINE_S:g} s)",
            f"QEMU itself crashed            {len(tally.crashes)}",
            f"anything wrong                 {len(tally.wrong)}",
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="how many (default: 10000)")
    parser.add_argument("--seed", type=int, default=1, help="where they are drawn from (default: 1)")
    parser.add_argument("--only", type=int, metavar="CASE", help="this one of them alone; its XML is printed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the tally to FILE")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        first, last, base = arguments.child
        child(arguments.seed, int(first), int(last), Path(base))
        return 0
    ranges = [(n, min(n + BATCH, arguments.cases)) for n in range(0, arguments.cases, BATCH)]
    if arguments.only is not None:
        print(case(random.Random(f"{arguments.seed}/{arguments.only}")).encode(errors="backslashreplace").decode())
        ranges = [(arguments.only, arguments.only + 1)]
    whole = Tally()
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for done in pool.map(lambda span: batch(arguments.seed, *span), ranges):
            whole.add(done)
            print(
                *(sentence[:2000] for sentence in done.wrong),
                f"{whole.cases} cases, {whole.started} started",
                sep="\n",
                flush=True,
            )
    print(*sorted(set(whole.crashes)), sep="\n")
    print(report(whole, arguments.seed))
    if arguments.json:
        arguments.json.write_text(whole.to_json() + "\n")
    return 1 if whole.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
