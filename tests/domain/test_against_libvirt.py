"""Completed domains against real libvirt's: the same controllers, addresses and places on the command line.

It needs libvirt-python, libvirt's QEMU driver and root, and is skipped where one of them is missing.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from lxml import etree

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.errors import EmbedError
from tests.domain.machines import completed, words, xml
from tests.domain.test_golden import CASES, GOLDEN
from tests.fakes.host import FakeHost

REASONS = {
    "libvirt-python is not installed": importlib.util.find_spec("libvirt") is not None,
    "libvirt's embedded driver wants root": os.geteuid() == 0,
}
pytestmark = pytest.mark.skipif(
    not all(REASONS.values()), reason=", ".join(reason for reason, there in REASONS.items() if not there)
)

CONFIGURATION = """
security_driver = "none"
user = "root"
group = "root"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
remember_owner = 0
"""

#: libvirt in a process of its own (it can be opened only once in one): a JSON line with XML in, a JSON line out.
ORACLE = """
import json, sys, threading, libvirt
libvirt.virEventRegisterDefaultImpl()
def turn():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=turn, daemon=True).start()
libvirt.registerErrorHandler(lambda *_: None, None)
connection = libvirt.open("qemu:///embed?root=" + sys.argv[1])
print(json.dumps(connection.getLibVersion()), flush=True)
for line in sys.stdin:
    xml = json.loads(line)
    try:
        argv = connection.domainXMLToNative("qemu-argv", xml, 0)
        domain = connection.defineXML(xml)
        answer = {"xml": domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), "argv": argv}
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    except libvirt.libvirtError as error:
        answer = {"refused": error.get_error_message()}
    print(json.dumps(answer), flush=True)
"""


class Oracle:
    """Asks libvirt, one domain at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = self._read()

    def ask(self, text: str) -> dict[str, str]:
        print(json.dumps(text), file=self._process.stdin, flush=True)
        answer: dict[str, str] = self._read()
        return answer

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            pytest.skip("libvirt's embedded QEMU driver does not run here")
        return json.loads(line)


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    root = tmp_path_factory.mktemp("libvirt") / "r"
    (root / "etc").mkdir(parents=True)
    (root / "etc/qemu.conf").write_text(CONFIGURATION)
    words = [sys.executable, "-c", ORACLE, str(root)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            asked = Oracle(process)
            if asked.version // 1000 != 9000:
                pytest.skip(f"compared with libvirt 9.0, not {asked.version}: later ones choose other defaults")
            yield asked
        finally:
            process.kill()


def places_in_xml(text: str) -> list[str]:
    """Every device that has an address, and all of a controller."""
    found = []
    for device in etree.fromstring(text).iterfind("devices/*"):
        address = device.find("address")
        words = [] if address is None else sorted(f"{name}={value}" for name, value in address.items())
        if device.tag == "controller":
            parts = [device, *device.iterfind("model"), *device.iterfind("target"), *device.iterfind("master")]
            words += [f"{part.tag}.{name}={value}" for part in parts for name, value in part.items()]
        if words:
            found.append(" ".join([str(device.tag), *words]))
    return found


#: What of a -device says where it is, or what kind of place it offers.
PLACING = (
    "driver", "id", "bus", "addr", "multifunction", "nr", "port", "chassis", "chassis_nr", "bus_nr", "masterbus",
    "firstport", "unit", "channel", "scsi-id", "lun", "p2", "p3", "max_ports", "vectors", "num_queues", "hotplug",
)  # fmt: skip


def places_in_argv(words: list[str]) -> list[dict[str, Any]]:
    devices = (json.loads(word) for option, word in itertools.pairwise(words) if option == "-device")
    placed = [{name: device[name] for name in PLACING if name in device} for device in devices if "bus" in device]
    for device in placed:
        if "-net-" in device["driver"] or device.get("id", "").startswith(("net", "ua-n")):
            del device["id"]  # qemuConnectDomainXMLToNative forgets the names that users gave to network cards
    return sorted(placed, key=lambda device: json.dumps(device, sort_keys=True))


def ours(text: str) -> tuple[list[str], list[dict[str, Any]]]:
    domain = complete.complete(definition.parse(text), FakeHost(kvm_refused=None))
    launch = argv.launch(domain, FakeHost(kvm_refused=None))
    words = launch.argv({descriptor.name: 100 + i for i, descriptor in enumerate(launch.descriptors)})
    return places_in_xml(definition.format(domain)), places_in_argv(words)


def theirs(answer: dict[str, str]) -> tuple[list[str], list[dict[str, Any]]]:
    return places_in_xml(answer["xml"]), places_in_argv(shlex.split(answer["argv"]))


PIECES = {
    "both": [
        "<disk type='file' device='disk'><source file='/images/{n}'/><target dev='vd{letter}' bus='virtio'/></disk>",
        "<disk type='file' device='disk'><source file='/images/{n}'/><target dev='sd{letter}' bus='scsi'/></disk>",
        "<disk type='file' device='cdrom'><target dev='sd{letter}' bus='sata'/></disk>",
        "<disk type='file' device='disk'><source file='/images/{n}'/><target dev='sd{letter}' bus='usb'/></disk>",
        "<interface type='user'><model type='virtio'/></interface>",
        "<interface type='user'><model type='e1000'/></interface>",
        "<interface type='user'><model type='e1000e'/></interface>",
        "<interface type='user'><model type='virtio-transitional'/></interface>",
        "<rng model='virtio'><backend model='builtin'/></rng>",
        "<rng model='virtio-transitional'><backend model='builtin'/></rng>",
        "<rng model='virtio'><backend model='builtin'/><address type='pci' bus='0' slot='{slot}'/></rng>",
        "<rng model='virtio'><backend model='builtin'/><address type='pci' bus='{bus}' slot='0'/></rng>",
        "<rng model='virtio'><backend model='builtin'/><address type='pci' slot='{slot}' function='{bus}'/></rng>",
        "<channel type='pty'><target type='virtio' name='c{n}'/></channel>",
        "<channel type='pty'><target type='virtio' name='c{n}'/>"
        "<address type='virtio-serial' controller='{bus}'/></channel>",
        "<console type='pty'><target type='virtio'/></console>",
        "<serial type='pty'/>",
        "<serial type='pty'><target type='pci-serial'/></serial>",
        "<input type='tablet' bus='usb'/>",
        "<input type='keyboard' bus='usb'><address type='usb' bus='0' port='{bus}'/></input>",
        "<input type='tablet' bus='virtio'/>",
        "<hub type='usb'/>",
        "<graphics type='vnc' port='-1' autoport='yes'/>",
        "<video><model type='vga'/></video>",
        "<video><model type='virtio'/></video>",
        "<controller type='scsi' model='virtio-scsi'/>",
        "<controller type='scsi' model='lsilogic'/>",
        "<controller type='usb' model='qemu-xhci'/>",
        "<controller type='usb' index='0' model='piix3-uhci'/>",
        "<controller type='usb' index='1' model='ich9-ehci1'/><controller type='usb' index='1' model='ich9-uhci1'/>",
        "<controller type='virtio-serial' ports='{slot}'/>",
        "<controller type='sata' index='1'/>",
    ],
    "q35": [
        "<controller type='pci' index='{slot}' model='pcie-root-port'/>",
        "<controller type='pci' index='{slot}' model='pcie-to-pci-bridge'/>",
        "<controller type='pci' index='{slot}' model='dmi-to-pci-bridge'/>",
    ],
    "pc": [
        "<controller type='pci' index='{slot}' model='pci-bridge'/>",
        "<disk type='file' device='cdrom'><target dev='hd{letter}' bus='ide'/></disk>",
    ],
}  # fmt: skip


def generated(seed: int) -> str:
    """A domain of a few random devices; many of them are refused, by both."""
    choose = random.Random(seed)
    machine = choose.choice(["q35", "pc"])
    pieces = choose.choices(PIECES["both"] + PIECES[machine], k=choose.randint(1, 14))
    letters = choose.sample("abcdefgh", 8) * 2
    devices = [
        piece.format(n=n, letter=letters[n], slot=choose.randint(1, 12), bus=choose.randint(1, 4))
        for n, piece in enumerate(pieces)
    ]
    return xml("".join(devices), machine)


#: Where this driver does otherwise, and why.
DIFFERS = dict.fromkeys(
    ["disk-drives-pc", "disk-virtio"],
    "libvirt sorts disks before it knows their buses, so that their order changes when they are read again",
)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.xfail(reason=DIFFERS[name])) if name in DIFFERS else name for name in CASES],
)
def test_golden_cases(name: str, oracle: Oracle) -> None:
    text = (GOLDEN / f"{name}.xml").read_text()
    answer = oracle.ask(text)
    if "refused" in answer:
        pytest.skip(f"libvirt 9.0 on this host refuses it: {answer['refused']}")
    assert ours(text) == theirs(answer)


@pytest.mark.parametrize("seed", range(150))
def test_generated(seed: int, oracle: Oracle) -> None:
    text = generated(seed)
    answer = oracle.ask(text)
    if "refused" in answer:
        with pytest.raises(EmbedError):  # of several faults, libvirt may name another first
            ours(text)
    else:
        assert ours(text) == theirs(answer)


def tpm(text: str, words: list[str]) -> tuple[str, list[dict[str, Any]]]:
    """A TPM in XML, without its alias and the indentation, and on the command line."""
    device = etree.fromstring(text).find("devices/tpm")
    for alias in device.findall("alias"):
        device.remove(alias)
    for element in device.iter():
        element.text = element.tail = None
    devices = (json.loads(word) for option, word in itertools.pairwise(words) if option == "-device")
    return etree.tostring(device, encoding="unicode"), [device for device in devices if "tpmdev" in device]


TPMS = {
    "nothing said": "<tpm><backend type='emulator'/></tpm>",
    "crb": "<tpm model='tpm-crb'><backend type='emulator'/></tpm>",
    "2.0": "<tpm model='tpm-tis'><backend type='emulator' version='2.0' persistent_state='no'/></tpm>",
    "persistent": "<tpm><backend type='emulator' version='1.2' persistent_state='yes'/></tpm>",
    "address": "<tpm><backend type='emulator'/><address type='isa' iobase='0x100'/></tpm>",
    "banks": "<tpm model='tpm-crb'><backend type='emulator'><encryption secret='6dd3e4a5-1d76-44ce-961f-f119f5aad935'/>"
    "<active_pcr_banks><sha512/><sha1/></active_pcr_banks></backend></tpm>",
    "no banks": "<tpm model='tpm-crb'><backend type='emulator'><active_pcr_banks/></backend></tpm>",
    "passthrough": "<tpm><backend type='passthrough' version='2.0'><device path='/dev/null'/></backend></tpm>",
    "external": "<tpm><backend type='external'><source type='unix' mode='connect' path='/s'/></backend></tpm>",
    "crb 1.2": "<tpm model='tpm-crb'><backend type='emulator' version='1.2'/></tpm>",
    "version": "<tpm><backend type='emulator' version='3'/></tpm>",
    "model": "<tpm model='tpm-x'><backend type='emulator'/></tpm>",
    "spapr": "<tpm model='tpm-spapr'><backend type='emulator'/></tpm>",
    "backend": "<tpm model='tpm-tis'/>",
    "backend's type": "<tpm model='tpm-tis'><backend/></tpm>",
    "no such backend": "<tpm model='tpm-tis'><backend type='x'/></tpm>",
    "banks of 1.2": "<tpm><backend type='emulator'><active_pcr_banks><sha256/></active_pcr_banks></backend></tpm>",
    "no secret": "<tpm><backend type='emulator' version='2.0'><encryption secret='x'/></backend></tpm>",
    "no source": "<tpm><backend type='external'/></tpm>",
    "state": "<tpm><backend type='emulator' persistent_state='x'/></tpm>",
    "two": "<tpm><backend type='emulator'/></tpm><tpm><backend type='emulator'/></tpm>",
}


@pytest.mark.parametrize("case", TPMS)
def test_tpm(case: str, oracle: Oracle) -> None:
    answer = oracle.ask(xml(TPMS[case]))
    if "refused" in answer:
        with pytest.raises(EmbedError) as caught:
            completed(TPMS[case])
        assert str(caught.value) == answer["refused"]
    else:
        domain = completed(TPMS[case])
        assert tpm(definition.format(domain), words(domain)) == tpm(answer["xml"], shlex.split(answer["argv"]))
