"""Devices into a QEMU that runs, and out of it; no guest looks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from tests.live.conftest import PAUSED, Open, descriptors, xml

LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
CONFIG = libvirt.VIR_DOMAIN_AFFECT_CONFIG
INACTIVE = libvirt.VIR_DOMAIN_XML_INACTIVE

#: Root ports, and a bus for SCSI disks.
ROOM = "".join(f"<controller type='pci' index='{i}' model='pcie-root-port'/>" for i in range(1, 6))
ROOM += "<controller type='scsi' index='0' model='virtio-scsi'/>"


def qmp(domain: libvirt.virDomain, command: str, **arguments: object) -> Any:
    message = json.dumps({"execute": command, "arguments": arguments})
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain, message, 0))["return"]


def inside(domain: libvirt.virDomain) -> dict[str, list[str]]:
    """What QEMU has, by name, of everything that a device may leave behind."""
    objects = [item["name"] for item in qmp(domain, "qom-list", path="/objects")]
    netdevs = libvirt_qemu.qemuMonitorCommand(
        domain, "info network", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    ).splitlines()
    return {
        "nodes": sorted(node["node-name"] for node in qmp(domain, "query-named-block-nodes")),
        "chardevs": sorted(chardev["label"] for chardev in qmp(domain, "query-chardev")),
        "devices": sorted(item["name"] for item in qmp(domain, "qom-list", path="/machine/peripheral")),
        "objects": sorted(objects),
        "netdevs": sorted(netdevs),
        "pci": [json.dumps(seated(bus["devices"])) for bus in qmp(domain, "query-pci")],
    }


def seated(devices: list[dict[str, Any]]) -> list[object]:
    """Who sits where, without what the guest's firmware has given them so far."""
    return [
        [
            device["slot"],
            device["function"],
            device["qdev_id"],
            device["id"],
            *seated(device.get("pci_bridge", {}).get("devices", [])),
        ]
        for device in devices
    ]


def image(path: Path) -> Path:
    path.write_bytes(bytes(1 << 20))
    return path


def disk(path: Path, dev: str = "sdb", bus: str = "scsi", image_format: str = "raw") -> str:
    return f"""<disk type='file'><driver type='{image_format}'/><source file='{path}'/>
      <target dev='{dev}' bus='{bus}'/></disk>"""


def test_a_disk_comes_and_goes(connect: Open, tmp_path: Path) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    before = inside(domain)
    domain.attachDevice(disk(image(tmp_path / "b.raw")))
    assert "<alias name='scsi0-0-0-1'/>" in domain.XMLDesc()
    assert inside(domain)["devices"] == sorted([*before["devices"], "scsi0-0-0-1"])
    domain.detachDevice("<disk><target dev='sdb'/></disk>")
    assert "sdb" not in domain.XMLDesc()
    assert inside(domain) == before


def test_what_cannot_be_opened_leaves_nothing(connect: Open, tmp_path: Path) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    before, text = inside(domain), domain.XMLDesc()
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(4096))
    for bus in ("scsi", "virtio"):
        with pytest.raises(libvirt.libvirtError, match="blockdev-add") as caught:
            domain.attachDevice(disk(broken, bus=bus, image_format="vmdk"))
        assert caught.value.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR
    assert inside(domain) == before
    assert domain.XMLDesc() == text


def test_both_or_neither(connect: Open, tmp_path: Path) -> None:
    domain = connect().defineXML(xml(devices=ROOM))
    domain.createWithFlags(PAUSED)
    path = image(tmp_path / "b.raw")
    domain.attachDeviceFlags(disk(path), LIVE | CONFIG)
    assert "sdb" in domain.XMLDesc()
    assert "sdb" in domain.XMLDesc(INACTIVE)
    domain.detachDeviceFlags(disk(path), LIVE)
    with pytest.raises(libvirt.libvirtError, match="target sdb already exists"):
        domain.attachDeviceFlags(disk(path), LIVE | CONFIG)
    assert "sdb" not in domain.XMLDesc()
    domain.detachDeviceFlags(disk(path), CONFIG)
    assert "sdb" not in domain.XMLDesc(INACTIVE)


def test_a_hundred_disks_leave_no_descriptor(connect: Open, tmp_path: Path) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    plug, process = disk(image(tmp_path / "b.raw")), Path(f"/proc/{_pid(domain, tmp_path)}/fd")

    def cycle() -> None:
        domain.attachDevice(plug)
        domain.detachDevice(plug)

    cycle()
    ours, theirs = descriptors(), len(list(process.iterdir()))
    for _ in range(100):
        cycle()
    assert (descriptors(), len(list(process.iterdir()))) == (ours, theirs)


def _pid(domain: libvirt.virDomain, tmp_path: Path) -> int:
    return int((tmp_path / "root" / "run" / "qemu" / f"{domain.name()}.pid").read_text())


DEVICES = {
    "disk, with a controller of its own": """<disk type='file'><source file='{file}'/>
      <target dev='sdq' bus='scsi'/></disk>""",
    "disk on USB": "<disk type='file'><source file='{file}'/><target dev='sdb' bus='usb'/></disk>",
    "disk on virtio": "<disk type='file'><source file='{file}'/><target dev='vdb' bus='virtio'/></disk>",
    "entropy": "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "unix": "<channel type='unix'><target type='virtio' name='org.y'/></channel>",
    "pty": "<channel type='pty'><target type='virtio' name='org.z'/></channel>",
    "file": "<channel type='file'><source path='{out}'/><target type='virtio' name='org.f'/></channel>",
    "tcp": """<channel type='tcp'><source mode='bind' host='127.0.0.1' service='0'/>
      <target type='virtio' name='org.t'/></channel>""",
    "udp": """<channel type='udp'><source mode='connect' host='127.0.0.1' service='4000'/>
      <source mode='bind' host='127.0.0.1' service='0'/><target type='virtio' name='org.u'/></channel>""",
    "serial port": "<serial type='pty'><target type='usb-serial'/></serial>",
    "console": "<console type='pty'><target type='virtio'/></console>",
    "tablet": "<input type='tablet' bus='usb'/>",
    "keyboard": "<input type='keyboard' bus='virtio'/>",
    "controller": "<controller type='scsi' index='1' model='virtio-scsi'/>",
    "slirp": "<interface type='user'><mac address='52:54:00:77:00:02'/><model type='virtio'/></interface>",
    "multicast": """<interface type='mcast'><source address='230.0.0.1' port='5558'/>
      <mac address='52:54:00:77:00:02'/><model type='virtio'/></interface>""",
    "private network": """<interface type='network'><source network='default'/><link state='down'/>
      <mac address='52:54:00:77:00:02'/><model type='virtio'/></interface>""",
}


def test_every_kind_comes_and_goes(connect: Open, tmp_path: Path) -> None:
    """Whatever needs no guest to let it go leaves nothing behind; the others are there until one does."""
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    place = {"file": image(tmp_path / "b.raw"), "out": tmp_path / "out"}
    for name in ("unix", "pty", "file", "tcp", "udp", "console", "serial port", "tablet", "disk on USB"):
        if name == "unix":  # it brings the controller that the others use
            domain.attachDevice(DEVICES[name])
            domain.detachDevice(DEVICES[name])
        before, text = inside(domain), domain.XMLDesc()
        domain.attachDevice(DEVICES[name].format(**place))
        assert inside(domain) != before, name
        domain.detachDevice(DEVICES[name].format(**place))
        assert inside(domain) == before, name
        assert domain.XMLDesc() == text, name
    assert not list((tmp_path / "root" / "lib" / "qemu" / "channel").rglob("org.*"))


@pytest.mark.parametrize("name", ["entropy", "keyboard", "controller", "slirp", "multicast", "private network"])
def test_what_sits_on_pci_is_in_the_machine_and_in_its_xml(connect: Open, name: str) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    before = set(inside(domain)["devices"])
    domain.attachDevice(DEVICES[name])
    (new,) = set(inside(domain)["devices"]) - before
    assert f"<alias name='{new}'/>" in domain.XMLDesc()
    assert new not in domain.XMLDesc(INACTIVE)


def test_a_disk_brings_the_controller_that_it_needs(connect: Open, tmp_path: Path) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    domain.attachDevice(DEVICES["disk, with a controller of its own"].format(file=image(tmp_path / "b.raw")))
    assert "<controller type='scsi' index='2' model='virtio-scsi'>" in domain.XMLDesc()
    assert {"scsi2", "scsi2-0-0-2"} <= set(inside(domain)["devices"])


REFUSED = [
    ("<memballoon model='virtio'/>", libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "live attach of device 'memballoon'"),
    ("<input type='mouse' bus='ps2'/>", libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "bus 'ps2' cannot be hot plugged."),
    ("<controller type='usb'/>", libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "'usb' controller cannot be hot plugged."),
    ("<watchdog model='ib700'/>", libvirt.VIR_ERR_OPERATION_UNSUPPORTED, "hotplug of watchdog of model ib700"),
    ("<foo/>", libvirt.VIR_ERR_CONFIG_UNSUPPORTED, "unknown device type 'foo'"),
    ("<disk", libvirt.VIR_ERR_XML_DETAIL, "device_definition"),
    (
        "<rng model='virtio'><backend model='random'/><address type='pci' bus='0' slot='9'/></rng>",
        libvirt.VIR_ERR_XML_ERROR,
        "requires hotplug capability",
    ),
]


def test_what_cannot_be_plugged_in_is_refused_in_libvirts_words(connect: Open) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    before = inside(domain)
    for device, code, words in REFUSED:
        with pytest.raises(libvirt.libvirtError, match=words) as caught:
            domain.attachDevice(device)
        assert caught.value.get_error_code() == code
    assert inside(domain) == before


def test_what_is_not_there_cannot_be_taken_away(connect: Open) -> None:
    domain = connect().createXML(xml(devices=ROOM), PAUSED)
    for device in ("<disk><target dev='vdq'/></disk>", "<interface type='user'/>", DEVICES["entropy"]):
        with pytest.raises(libvirt.libvirtError) as caught:
            domain.detachDevice(device)
        assert caught.value.get_error_code() == libvirt.VIR_ERR_DEVICE_MISSING
    with pytest.raises(libvirt.libvirtError, match="no device found with alias nope"):
        domain.detachDeviceAlias("nope", LIVE)
    with pytest.raises(libvirt.libvirtError, match="transient domains do not have any persistent config"):
        domain.attachDeviceFlags(DEVICES["entropy"], CONFIG)


def test_a_medium_is_changed_and_ejected(connect: Open, tmp_path: Path) -> None:
    drive = "<disk type='file' device='cdrom'>{source}<target dev='sda' bus='sata'/></disk>"
    first, second = image(tmp_path / "1.iso"), image(tmp_path / "2.iso")
    domain = connect().createXML(xml(devices=drive.format(source="")), PAUSED)
    before = inside(domain)
    for medium in (first, second):
        domain.updateDeviceFlags(drive.format(source=f"<source file='{medium}'/>"), LIVE)
        (block,) = qmp(domain, "query-block")
        assert block["inserted"]["image"]["filename"] == str(medium)
        assert len(inside(domain)["nodes"]) == len(before["nodes"]) + 2
        assert f"<source file='{medium}'" in domain.XMLDesc()
    domain.updateDeviceFlags(drive.format(source=""), LIVE)
    assert inside(domain) == before
    with pytest.raises(libvirt.libvirtError, match="disk sdx not found"):
        domain.updateDeviceFlags(drive.format(source="").replace("sda", "sdx"), LIVE)


def test_a_cable_is_pulled_and_nothing_else_of_a_card_changes(connect: Open) -> None:
    card = """<interface type='user'><mac address='52:54:00:77:00:03'/><model type='{model}'/>
      <link state='{link}'/></interface>"""
    domain = connect().defineXML(xml(devices=card.format(model="virtio", link="up")))
    domain.createWithFlags(PAUSED)
    domain.updateDeviceFlags(card.format(model="virtio", link="down"), LIVE | CONFIG)
    assert "<link state='down'/>" in domain.XMLDesc()
    assert "<link state='down'/>" in domain.XMLDesc(INACTIVE)
    domain.updateDeviceFlags(card.format(model="e1000", link="up"), CONFIG)  # what is described is what there is
    assert "<model type='e1000'/>" in domain.XMLDesc(INACTIVE)
    assert domain.XMLDesc(INACTIVE).count("<interface") == 1
    with pytest.raises(libvirt.libvirtError, match="cannot modify network device model from virtio to e1000"):
        domain.updateDeviceFlags(card.format(model="e1000", link="up"), LIVE)


def test_a_saved_machine_still_has_what_was_plugged_in(connect: Open, tmp_path: Path) -> None:
    connection = connect()
    domain = connection.createXML(xml(devices=ROOM), PAUSED)
    domain.attachDevice(DEVICES["disk on virtio"].format(file=image(tmp_path / "b.raw")))
    domain.attachDevice(DEVICES["private network"])
    before = inside(domain)["pci"]
    domain.save(str(tmp_path / "saved"))
    connection.restoreFlags(str(tmp_path / "saved"), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
    domain = connection.lookupByName("a")
    assert inside(domain)["pci"] == before


def test_what_was_plugged_in_migrates(connect: Open, tmp_path: Path) -> None:
    source, destination = connect("one"), connect("two")
    domain = source.createXML(xml(devices=ROOM), 0)
    disk_of_both = disk(image(tmp_path / "b.raw")).replace("</disk>", "<shareable/></disk>")
    for device in (disk_of_both, DEVICES["private network"], DEVICES["unix"]):
        domain.attachDevice(device)
    before = inside(domain)
    moved = domain.migrate(destination, libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE, None, None, 0)
    after = inside(moved)
    assert (after["devices"], after["pci"]) == (before["devices"], before["pci"])
    moved.detachDevice(disk_of_both)
    assert "sdb" not in moved.XMLDesc()
