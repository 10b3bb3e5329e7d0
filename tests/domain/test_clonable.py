"""Which domains can be cloned, kind by kind, and what a clone has of its own."""

from __future__ import annotations

import itertools
import uuid

import pytest

from pytest_embedvm.domain import clonable, complete, definition
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.domain.forwards import learn_ports
from pytest_embedvm.domain.migratable import migratable
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.errors import ConfigUnsupported
from tests.fakes.host import FakeHost

ONE = "which is one thing of the host's"
DISK = "<disk type='file'>{}<source file='/d'/><target dev='vda' bus='virtio'/>{}</disk>"
SECRET = (
    "<encryption format='luks'><secret type='passphrase' uuid='11111111-1111-1111-1111-000000000009'/></encryption>"
)
TCP = "<source mode='bind' host='127.0.0.1' service='4555'/>"
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


def completed(devices: str, more: str = "") -> Completed:
    text = f"""<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>a</name>
      <memory unit='MiB'>64</memory><os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features>
      {more}<devices>{devices}</devices></domain>"""
    return complete.complete(definition.parse(text), FakeHost())


#: A device of each kind, as often as something about it decides, and why a guest that has it cannot be cloned.
CASES: list[tuple[str, str | None]] = [
    (DISK.format("", ""), None),
    (DISK.format("<driver name='qemu' type='qcow2'/>", ""), None),
    (DISK.format("<driver name='qemu' type='vmdk'/>", ""), "disk 'vda' is of type 'file' and format 'vmdk': there can"),
    (DISK.format("<driver name='qemu' type='vmdk'/>", "<readonly/>"), None),
    (DISK.format("", "<shareable/>"), "disk 'vda' is shared with others that write to it"),
    (DISK.format("", "<shareable/><readonly/>"), None),
    (DISK.format("", SECRET), "disk 'vda' is encrypted, and an overlay over it would not be"),
    (
        "<disk type='block'><source dev='/dev/d'/><target dev='vda' bus='virtio'/></disk>",
        "disk 'vda' is of type 'block'",
    ),
    ("<disk type='block'><source dev='/dev/d'/><target dev='vda' bus='virtio'/><readonly/></disk>", None),
    ("<disk type='file' device='cdrom'><source file='/i'/><target dev='sda' bus='sata'/></disk>", None),
    ("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>", None),
    ("<disk type='file' device='floppy'><source file='/f'/><target dev='fda' bus='fdc'/></disk>", None),
    ("<controller type='scsi' model='virtio-scsi'/>", None),
    ("<filesystem><source dir='/s'/><target dir='t'/></filesystem>", None),
    ("<interface type='user'><model type='virtio'/></interface>", None),
    ("<interface type='user'><backend type='passt'/><model type='virtio'/></interface>", None),
    (
        "<interface type='user'><portForward proto='tcp'><range start='0' to='22'/></portForward></interface>",
        None,
    ),
    (
        "<interface type='user'><portForward proto='tcp'><range start='2222' to='22'/></portForward></interface>",
        "a given port of the host's that leads into it is one thing",
    ),
    ("<interface type='network'><source network='default'/></interface>", None),
    ("<interface type='bridge'><source bridge='br0'/></interface>", "an interface of type 'bridge' is one thing of"),
    (
        "<interface type='mcast'><source address='230.0.0.1' port='5558'/></interface>",
        "an interface of type 'mcast' is",
    ),
    ("<serial type='pty'/>", None),
    ("<serial type='null'/>", None),
    ("<serial type='file'><source path='/o'/></serial>", f"its serial is file '/o', {ONE}"),
    ("<serial type='pty'><log file='/l'/></serial>", f"its serial is the log file '/l', {ONE}"),
    (f"<serial type='tcp'>{TCP}<protocol type='raw'/></serial>", f"its serial is tcp '127.0.0.1:4555', {ONE}"),
    ("<serial type='unix'><source mode='bind' path='/s'/></serial>", f"its serial is unix '/s', {ONE}"),
    ("<parallel type='dev'><source path='/dev/parport0'/></parallel>", f"its parallel is dev '/dev/parport0', {ONE}"),
    ("<console type='pty'><target type='virtio'/></console>", None),
    ("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>", None),
    (
        "<channel type='unix'><source mode='bind' path='/c'/><target type='virtio' name='n'/></channel>",
        f"its channel is unix '/c', {ONE}",
    ),
    ("<channel type='pty'><target type='virtio' name='n'/></channel>", None),
    ("<input type='tablet' bus='usb'/>", None),
    ("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>", None),
    ("<tpm><backend type='passthrough'/></tpm>", "a TPM of type 'passthrough' is one thing of the host's"),
    (
        "<tpm><backend type='external'><source type='unix' mode='connect' path='/t'/></backend></tpm>",
        "a TPM of type 'external' is one thing of the host's",
    ),
    ("<graphics type='vnc'/>", None),
    ("<graphics type='vnc' port='-1' autoport='yes'/>", None),
    ("<graphics type='vnc' port='5999'/>", "VNC port 5999 is one thing of the host's"),
    ("<graphics type='vnc'><listen type='none'/></graphics>", None),
    ("<graphics type='vnc'><listen type='socket'/></graphics>", None),
    ("<graphics type='vnc' socket='/v'/>", "VNC socket '/v' is one thing of the host's"),
    ("<audio id='1' type='none'/>", None),
    ("<video><model type='vga'/></video>", None),
    ("<hub type='usb'/>", None),
    ("<watchdog model='i6300esb'/>", None),
    ("<memballoon model='virtio'/>", None),
    ("<rng model='virtio'><backend model='random'/></rng>", None),
    ("<panic model='isa'/>", None),
    ("<vsock model='virtio'/>", None),
    ("<vsock model='virtio'><cid auto='no' address='7'/></vsock>", "vsock address 7 is one thing of the host's"),
]


@pytest.mark.parametrize(("device", "why_not"), CASES, ids=[device[1:45] for device, _ in CASES])
def test_each_kind_says_whether(device: str, why_not: str | None) -> None:
    found = clonable.obstacles(completed(device))
    if why_not is None:
        assert found == []
    else:
        assert [reason.startswith(why_not) for reason in found] == [True], found


def test_no_kind_is_left_out() -> None:
    """A new kind has to say so here, whether its guests can be cloned or not."""
    assert {device[1:].split(" ")[0].split(">")[0].split("/")[0] for device, _ in CASES} == set(KINDS)


def test_virtiofs() -> None:
    text = "<filesystem><driver type='virtiofs'/><source dir='/s'/><target dir='t'/></filesystem>"
    (reason,) = clonable.obstacles(completed(text, SHARED))
    assert reason == "QEMU cannot save the state of directory 't', shared by virtiofs"


def test_words_of_the_users_own() -> None:
    words = "<qemu:commandline>{}</qemu:commandline>"
    assert clonable.obstacles(completed("", words.format(""))) == []
    for word in "<qemu:arg value='-nodefaults'/>", "<qemu:env name='A' value='b'/>":
        assert clonable.obstacles(completed("", words.format(word))) == [
            "nobody knows what its <qemu:commandline> opens"
        ]


def test_all_reasons_are_told() -> None:
    devices = "<graphics type='vnc' port='5999'/><serial type='file'><source path='/o'/></serial>"
    assert len(clonable.obstacles(completed(devices))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<hostdev mode='subsystem' type='pci'><source><address bus='1' slot='0' function='0'/></source></hostdev>",
        "<interface type='vhostuser'><source type='unix' path='/v' mode='server'/></interface>",
        "<shmem name='s'><model type='ivshmem-plain'/><size unit='M'>4</size></shmem>",
        "<input type='evdev'><source dev='/dev/input/event0'/></input>",
    ],
)
def test_what_this_driver_cannot_start_is_no_question_of_cloning(text: str) -> None:
    with pytest.raises(ConfigUnsupported):
        completed(text)


def test_encrypted_memory_cannot_be_started_either() -> None:
    with pytest.raises(ConfigUnsupported, match="launchSecurity"):
        completed("", "<launchSecurity type='sev'><policy>0x1</policy><cbitpos>47</cbitpos></launchSecurity>")


def test_another_machine() -> None:
    cards = "<interface type='network'><source network='default'/></interface>" * 2
    behind_nat = "<interface type='user'><mac address='52:54:00:aa:aa:aa'/></interface>"
    domain, macs = completed(cards + behind_nat + DISK.format("", "")), itertools.count()
    before = definition.format(domain)
    other = clonable.clone(domain, "b", uuid.UUID(int=7), lambda: f"52:54:00:00:00:{next(macs):02x}")
    text = definition.format(other)
    assert (other.name, other.uuid) == ("b", uuid.UUID(int=7))
    assert "52:54:00:00:00:00" in text
    assert "52:54:00:00:00:01" in text
    assert "52:54:00:aa:aa:aa" in text  # alone on its network, which goes on with the address that it gave it
    assert definition.format(domain) == before


def test_other_images() -> None:
    devices = DISK.format("", "<serial>s</serial>")
    devices += "<disk type='file'><source file='/e'/><target dev='vdb' bus='virtio'/><readonly/></disk>"
    domain = completed(devices)
    assert [(image.device, image.path) for image in clonable.written_images(domain)] == [("vda", "/d")]
    over = clonable.over(domain, {"vda": "/o.qcow2"})
    assert [image.path for image in clonable.written_images(over)] == ["/o.qcow2"]
    text = definition.format(over)
    assert '<source file="/e"' in text.replace("'", '"')
    assert "<serial>s</serial>" in text
    assert [image.path for image in clonable.written_images(domain)] == ["/d"]


def test_a_port_that_was_chosen_is_no_part_of_it() -> None:
    port = "<portForward proto='tcp' address='127.0.0.1'><range start='0' to='22'/></portForward>"
    domain = completed(f"<interface type='user'>{port}</interface>")
    learn_ports(
        domain, "Hub -1 (hostnet0):\n  TCP[HOST_FORWARD]  13       127.0.0.1 43217       10.0.2.15    22     0     0\n"
    )
    assert "43217" in definition.format(domain)
    assert clonable.obstacles(domain) == []
    assert "43217" not in definition.format(migratable(domain, FakeHost()))
