"""What a guest sees of devices that it gets and loses while it runs."""

from __future__ import annotations

from pathlib import Path

from tests.guest.conftest import Boot

NIC = """<interface type='network'><mac address='52:54:00:77:00:01'/><source network='default'/>
  <model type='virtio'/></interface>"""


def test_a_disk_and_a_card_on_the_built_in_guest(boot: Boot, tmp_path: Path) -> None:
    vm = boot("hotplug")
    (tmp_path / "b.raw").write_bytes(b"plugged in" + bytes(1 << 20))
    disk = f"<disk type='file'><source file='{tmp_path}/b.raw'/><target dev='vdb' bus='virtio'/></disk>"
    vm.domain.attachDevice(disk)
    vm.domain.attachDevice(NIC)
    assert vm.run("until [ -b /dev/vda ]; do usleep 20000; done; head -c 10 /dev/vda").text == "plugged in"
    assert "192.168.122." in vm.run("until ip -4 addr show eth0 2>&1 | grep inet; do usleep 20000; done").text
    vm.domain.detachDevice(disk)
    vm.domain.detachDevice(NIC)
    assert vm.run("ls /sys/block /sys/class/net").text.split() == ["/sys/block:", "/sys/class/net:", "lo"]
    assert "vdb" not in vm.domain.XMLDesc()
