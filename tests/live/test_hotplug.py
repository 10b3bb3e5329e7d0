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
        "pci": [json.dumps(qmp(domain, "query-pci"), sort_keys=True)],
    }


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
