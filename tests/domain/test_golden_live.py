"""Each golden case on real QEMU: it starts (paused), answers on its monitor, and ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lxml import etree

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.domain.host import FileKind, FirmwareImage, FirmwareWish
from pytest_embedvm.driver.descriptors import Beside, open_all
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.driver.secret import sealing
from pytest_embedvm.qemu.monitor import Monitor
from pytest_embedvm.qemu.parts import SecretPart, SecretRef
from pytest_embedvm.qemu.process import Process
from tests.domain.test_golden import CASES, GOLDEN
from tests.fakes.host import EMULATOR, FakeHost, no_network
from tests.fakes.luks import make_luks

pytestmark = pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")

#: What opens the encrypted images of all cases.
PASSPHRASE = "golden"
#: Where a case names a file of the host, and what has to be in it.
FILES = {
    "os/kernel": "kernel",
    "os/initrd": "empty",
    "os/loader": "flash",
    "os/nvram": "flash",
    "os/nvram/@template": "flash",
    "devices/disk//source/@file": "image",
    "devices/graphics/@socket": "place",
    "devices/filesystem/source/@dir": "directory",
}


class HostBelow(FakeHost):
    """A host whose every file lies below one directory."""

    def __init__(self, root: Path) -> None:
        super().__init__(kvm_refused=None)
        self.root = root

    def path(self, kind: FileKind, domain: str, item: str) -> str:
        path = self.root / kind / Path(item).name
        path.parent.mkdir(exist_ok=True)
        if kind == "nvram":
            make(path, "flash", "raw")
        elif kind == "tpm":
            path.mkdir()
        return str(path)

    def firmware(self, arch: str, machine: str, wish: FirmwareWish) -> FirmwareImage:
        code, variables = self.root / "code.fd", self.root / "vars.fd"
        make(code, "flash", "raw")
        make(variables, "flash", "raw")
        return FirmwareImage(str(code), str(variables), requires_smm=bool(wish.secure_boot))


def make(path: Path, content: str, image_format: str, *, encrypted: bool = False) -> None:
    """A file at PATH that QEMU takes for CONTENT."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if encrypted:
        make_luks(path, PASSPHRASE.encode(), kind="luks" if image_format == "raw" else image_format)
        return
    if content == "image" and image_format != "raw":
        subprocess.run(["qemu-img", "create", "-q", "-f", image_format, path, "1M"], check=True)
        return
    if content == "place":
        return
    if content == "directory":
        path.mkdir(exist_ok=True)
        return
    size = {"image": 1 << 20, "flash": 128 << 10, "kernel": 8 << 10, "empty": 4 << 10}[content]
    data = bytearray(size)
    if content == "kernel":
        data[0x1FE:0x208] = b"\x55\xaa\xeb\x66HdrS\x0c\x02"  # the smallest header of a bzImage, protocol 2.12
        data[0x22C:0x230] = b"\xff\xff\xff\x37"  # and how high its initrd may lie
    path.write_bytes(data)


def below(root: Path, text: str) -> str:
    """TEXT with every file that it names made below ROOT; sockets and logs, which QEMU makes, are named `/R/…`."""
    (root / "R").mkdir()
    tree = etree.fromstring(text.replace("'/R/", f"'{root}/R/"))
    for source in tree.iterfind("devices/disk//source[@dev]"):  # nobody has block devices to give away
        source.getparent().set("type", "file")
        source.set("file", source.attrib.pop("dev"))
    for place, content in FILES.items():
        path, _, attribute = place.partition("/@")
        for element in tree.iterfind(path):
            named = element.get(attribute) if attribute else element.text
            if not named:
                continue
            moved = root / "files" / named.lstrip("/")
            make(moved, content, image_format(element), encrypted=is_encrypted(element))
            if attribute:
                element.set(attribute, str(moved))
            else:
                element.text = str(moved)
    return etree.tostring(tree, encoding="unicode")


def image_format(element: etree._Element) -> str:
    """What the image of a <source> is said to be; `raw` for all else."""
    disk = element.getparent()
    said = next((found for name in ("driver", "format") if (found := disk.find(name)) is not None), None)
    return (said.get("type") if said is not None else None) or "raw"


def is_encrypted(source: etree._Element) -> bool:
    """Whether the image of a <source> is."""
    return source.find("encryption") is not None or source.getparent().find("encryption") is not None


def needs_more_than_there_is(text: str, directory: Path) -> str | None:
    """Why a case cannot start here; None when it can."""
    tpm = "<tpm" in text
    lacks = {
        "asks for KVM, which few machines that run tests have": "type='kvm'" in text,
        "needs a bridge of the host's": "<interface type='bridge'" in text,
        "this host has no /dev/vhost-vsock": "<vsock" in text and not Path("/dev/vhost-vsock").exists(),
        "there is no swtpm": tpm and not shutil.which("swtpm"),
        "this host has no TPM": tpm and "type='passthrough'" in text and not Path("/dev/tpm0").exists(),
        "nobody is there to be connected to": tpm and "type='external'" in text,
        "the TPM's secret is not there": tpm and "<encryption" in text,
        "this host has no virtiofsd, or not as root": "type='virtiofs'" in text and not can_share(),
        "the temporary directory's file system has no O_DIRECT": ("cache='none'" in text or "<shareable" in text)
        and not opens_directly(directory),
    }
    return next((reason for reason, lacking in lacks.items() if lacking), None)


def can_share() -> bool:
    return os.geteuid() == 0 and Path("/usr/lib/qemu/virtiofsd").exists()


def opens_directly(directory: Path) -> bool:
    try:
        os.close(os.open(directory / "direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT))
    except OSError:
        return False
    return True


def sealed(launch: argv.Launch, home: Path) -> argv.Launch:
    """The same with every secret in it, each worth PASSPHRASE."""
    wanted = [part.value for part in launch.parts if isinstance(part, SecretPart)]
    values = {value: bytearray(PASSPHRASE.encode()) for value in wanted if isinstance(value, SecretRef)}
    return dataclasses.replace(launch, parts=sealing.seal(launch.parts, values, home))


@contextlib.asynccontextmanager
async def running(launch: argv.Launch, log: Path) -> AsyncIterator[tuple[Monitor, Process]]:
    """QEMU, started and paused, for as long as the context lasts."""
    ours, theirs = socket.socketpair()
    async with contextlib.AsyncExitStack() as stack:
        with theirs, contextlib.ExitStack() as passed, log.open("wb") as output:
            holdings = Holdings()
            stack.push_async_callback(holdings.aclose)
            numbers = await open_all(launch.descriptors, holdings, passed, Beside(no_network))
            monitor = theirs.fileno()
            words = ["-chardev", f"socket,id=charmonitor,fd={monitor}", "-mon", "chardev=charmonitor,mode=control"]
            process = Process.spawn(
                [*launch.argv(numbers), *words],
                output=output,
                pass_fds=[monitor, *numbers.values()],
                env={"PATH": "/usr/bin:/bin", **launch.environment},
            )
        stack.push_async_callback(process.kill)
        connection = await Monitor.connect(ours, "golden")
        stack.push_async_callback(connection.close)
        yield connection, process


async def start_and_quit(launch: argv.Launch, log: Path) -> str:
    """The run state that QEMU reports."""
    async with running(launch, log) as (monitor, process):
        status = await monitor.execute("query-status")
        await monitor.execute("quit")
        await asyncio.wait_for(process.wait(), 30)
        return str(status["status"])


@pytest.mark.parametrize("name", CASES)
def test_starts(name: str, tmp_path: Path) -> None:
    text = (GOLDEN / f"{name}.xml").read_text()
    lacking = needs_more_than_there_is(text, tmp_path)
    if lacking:
        pytest.skip(lacking)
    host = HostBelow(tmp_path)
    domain = complete.complete(definition.parse(below(tmp_path, text)), host)
    log = tmp_path / "qemu.log"
    try:
        state = asyncio.run(start_and_quit(sealed(argv.launch(domain, host), tmp_path), log))
    except Exception as error:
        error.add_note(log.read_text() if log.exists() else "QEMU was not started")
        raise
    assert state == "prelaunch"
