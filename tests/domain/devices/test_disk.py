"""Disks: names, places, aliases, nodes, and the files they stand on."""

from __future__ import annotations

import pytest

from pytest_embedvm.domain import argv, definition
from pytest_embedvm.domain.addresses.disk_names import bus_of, disk_index, is_partition
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.domain.media import drop_medium, needed_files
from pytest_embedvm.domain.model import Completed
from tests.domain.devices.asking import completed
from tests.fakes.host import FakeHost

CHAIN = """<disk><driver type='qcow2'/><source file='/top'/><target dev='vda'/>
<backingStore type='file'><format type='qcow2'/><source file='/middle'/>{end}</backingStore></disk>"""
VIRTIO_SCSI = "<controller type='scsi' model='virtio-scsi'/>"


def disks(domain: Completed) -> list[Disk]:
    return [device for device in domain.devices.all if isinstance(device, Disk)]


@pytest.mark.parametrize(
    ("name", "index", "bus"),
    [
        ("vda", 0, "virtio"),
        ("sdz", 25, "scsi"),
        ("sdaa", 26, "scsi"),
        ("hdc", 2, "ide"),
        ("fdb", 1, "fdc"),
        ("xvda", 0, "xen"),
        ("vd", None, "virtio"),
        ("zz9", None, None),
        ("vda,b", None, "virtio"),
    ],
)
def test_a_name_says_number_and_bus(name: str, index: int | None, bus: str | None) -> None:
    assert (disk_index(name), bus_of(name)) == (index, bus)


def test_a_partition_is_no_disk() -> None:
    assert is_partition("vda1")
    assert not is_partition("vda")


def test_disks_of_a_bus_stand_in_the_order_of_their_names() -> None:
    written = ("vdb", "sda", "vda", "vdaa", "vdc")
    domain = completed("".join(f"<disk><source file='/{n}'/><target dev='{n}'/></disk>" for n in written))
    assert [disk.dev for disk in disks(domain)] == ["vda", "vdb", "vdc", "vdaa", "sda"]


def test_nodes_are_numbered_from_the_last_disk_and_down_each_chain() -> None:
    domain = completed(CHAIN.format(end="") + "<disk device='cdrom'><target dev='sda' bus='sata'/></disk>")
    chain, empty = disks(domain)
    assert chain.source is not None
    assert chain.backing is not None
    assert (chain.source.index, chain.backing.index, empty.source) == (2, 3, None)


def test_the_definition_has_no_numbers_of_nodes() -> None:
    text = definition.format(completed(CHAIN.format(end="<backingStore/>")), inactive=True)
    assert "index='2'" not in text.partition("<controller")[0]


def test_numbers_of_nodes_that_were_pasted_do_not_count() -> None:
    domain = completed("<disk><source file='/a' index='77'/><target dev='vda'/></disk>")
    assert "libvirt-1-format" in " ".join(argv.launch(domain, FakeHost()).argv({}))


@pytest.mark.parametrize(("end", "open_ended"), [("", True), ("<backingStore/>", False)])
def test_files_needed_of_a_chain(end: str, open_ended: bool) -> None:
    top, middle = needed_files(completed(CHAIN.format(end=end)))
    assert (top.path, top.writable, top.open_ended) == ("/top", True, False)
    assert (middle.path, middle.writable, middle.open_ended) == ("/middle", False, open_ended)


def test_a_raw_image_stands_on_nothing() -> None:
    (file,) = needed_files(completed("<disk><source file='/a'/><target dev='vda'/><readonly/></disk>"))
    assert (file.writable, file.open_ended, file.device) == (False, False, "vda")


def test_without_its_medium_a_drive_is_empty_and_a_hard_disk_is_gone() -> None:
    domain = completed(
        "<disk device='cdrom'><source file='/cd' startupPolicy='optional'/><target dev='sda' bus='sata'/></disk>"
        "<disk><source file='/hd' startupPolicy='optional'/><target dev='vda'/></disk>"
        "<disk><source file='/other'/><target dev='vdb'/></disk>"
    )
    missing = [file for file in needed_files(domain) if file.policy == "optional"]
    for file in missing:
        drop_medium(domain, file)
    assert [(disk.dev, disk.path) for disk in disks(domain)] == [("sda", None), ("vdb", "/other")]


@pytest.mark.parametrize(
    ("disk", "alias"),
    [
        ("<disk><source file='/a'/><target dev='vdc'/></disk>", "virtio-disk2"),
        ("<disk><source file='/a'/><target dev='sdb' bus='usb'/></disk>", "usb-disk1"),
        ("<disk><source file='/a'/><target dev='sdb' bus='sata'/></disk>", "sata0-0-1"),
        ("<disk><source file='/a'/><target dev='sdb' bus='scsi'/></disk>", "scsi0-0-1"),
        (f"{VIRTIO_SCSI}<disk><source file='/a'/><target dev='sdb' bus='scsi'/></disk>", "scsi0-0-0-1"),
        ("<disk device='floppy'><target dev='fdb'/></disk>", "fdc0-0-1"),
    ],
)
def test_aliases(disk: str, alias: str) -> None:
    assert disks(completed(disk))[0].alias == alias


def test_two_names_with_one_number_have_two_aliases() -> None:
    pair = [f"<disk><source file='/{n}'/><target dev='{n}' bus='virtio'/></disk>" for n in ("vda", "hda")]
    assert len({disk.alias for disk in disks(completed("".join(pair)))}) == 2


def test_boot_takes_the_first_disk_by_name() -> None:
    pair = [f"<disk><source file='/{n}'/><target dev='{n}'/></disk>" for n in ("vdb", "vda")]
    words = argv.launch(completed("".join(pair)), FakeHost()).argv({})
    (booted,) = (word for word in words if '"bootindex":1' in word)
    assert '"id":"virtio-disk0"' in booted
