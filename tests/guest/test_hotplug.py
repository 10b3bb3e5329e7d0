"""What a guest sees of devices that it gets and loses while it runs."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pytest_embedvm import libvirt, libvirt_qemu
from tests.guest.conftest import Boot, await_server

NIC = """<interface type='network'><mac address='52:54:00:77:00:01'/><source network='default'/>
  <model type='virtio'/></interface>"""


def test_a_disk_and_a_card_on_the_built_in_guest(boot: Boot, tmp_path: Path) -> None:
    vm = boot("hotplug")
    (tmp_path / "b.raw").write_bytes(b"plugged in" + bytes(1 << 20))
    disk = f"<disk type='file'><source file='{tmp_path}/b.raw'/><target dev='vdb' bus='virtio'/></disk>"
    vm.domain.attachDevice(disk)
    vm.domain.attachDevice(NIC)
    assert vm.run("until head -c 10 /dev/vda 2>/dev/null; do usleep 20000; done").text == "plugged in"
    assert "192.168.122." in vm.run("until ip -4 addr show eth0 2>&1 | grep inet; do usleep 20000; done").text
    vm.domain.updateDeviceFlags(NIC.replace("</interface>", "<link state='down'/></interface>"))
    vm.run("until [ $(cat /sys/class/net/eth0/carrier) = 0 ]; do usleep 20000; done")
    vm.domain.attachDevice("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
    vm.run("until grep -q virtio_rng.1 /sys/class/misc/hw_random/rng_available; do usleep 20000; done")
    vm.domain.attachDevice("<channel type='pty'><target type='virtio' name='org.plugged.0'/></channel>")
    vm.run("until [ -c /dev/virtio-ports/org.plugged.0 ]; do usleep 20000; done")
    vm.domain.detachDevice(disk)
    vm.domain.detachDevice(NIC)
    assert vm.run("ls /sys/block /sys/class/net").text.split() == ["/sys/block:", "/sys/class/net:", "lo"]
    assert "vdb" not in vm.domain.XMLDesc()


class Heard:
    """The events of devices, by name."""

    def __init__(self, domain: libvirt.virDomain) -> None:
        self.events: list[tuple[str, str]] = []
        self._changed = threading.Condition()
        for name in ("DEVICE_ADDED", "DEVICE_REMOVED", "DEVICE_REMOVAL_FAILED"):
            kind = getattr(libvirt, f"VIR_DOMAIN_EVENT_ID_{name}")
            domain.connect().domainEventRegisterAny(domain, kind, self._hear, name)

    def _hear(self, _connection: object, _domain: object, alias: str, name: str) -> None:
        with self._changed:
            self.events.append((name, alias))
            self._changed.notify_all()

    def wait(self, *expected: tuple[str, str]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.events == list(expected), 60), self.events


def test_a_guest_lets_go_by_itself_or_late(boot: Boot, tmp_path: Path) -> None:
    vm = boot("lets-go")
    heard, disk = Heard(vm.domain), tmp_path / "b.raw"
    disk.write_bytes(bytes(1 << 20))
    plug = f"<disk type='file'><source file='{disk}'/><target dev='vdb' bus='virtio'/></disk>"
    vm.domain.attachDevice(plug)
    alias = "virtio-disk1"
    vm.run("until head -c 1 /dev/vda >/dev/null 2>&1; do usleep 20000; done")
    vm.run("for slot in /sys/bus/pci/slots/*; do [ $(cat $slot/power) = 0 ] || echo 0 >$slot/power; done", check=False)
    heard.wait(("DEVICE_ADDED", alias), ("DEVICE_REMOVED", alias))
    assert "vdb" not in vm.domain.XMLDesc()
    assert _nodes(vm.domain) == []

    vm.domain.suspend()
    vm.domain.attachDevice(NIC)
    vm.domain.detachDevice(NIC)  # returns, although nobody has let it go
    assert "net0" in vm.domain.XMLDesc()
    vm.domain.resume()
    heard.wait(*heard.events[:2], ("DEVICE_ADDED", "net0"), ("DEVICE_REMOVED", "net0"))
    assert "net0" not in vm.domain.XMLDesc()


def test_cards_that_come_and_go_leave_no_descriptor(boot: Boot) -> None:
    vm = boot("cycles")
    ours, theirs = Path("/proc/self/fd"), Path(f"/proc/{_pid(vm.domain)}/fd")

    def cycle() -> tuple[int, int]:
        vm.domain.attachDevice(NIC)
        vm.run("until [ -d /sys/class/net/eth0 ]; do usleep 20000; done")
        vm.domain.detachDevice(NIC)
        return sum("socket" in target for target in _targets(ours)), len(list(theirs.iterdir()))

    await_server(vm)  # whose channel is open from then on
    first = cycle()
    assert [cycle() for _ in range(10)] == [first] * 10


def _targets(directory: Path) -> Iterator[str]:
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            yield str(entry.readlink())


def _pid(domain: libvirt.virDomain) -> int:
    (root,) = parse_qs(urlsplit(domain.connect().getURI()).query)["root"]
    return int(Path(root, "run", "qemu", f"{domain.name()}.pid").read_text())


def _nodes(domain: libvirt.virDomain) -> list[object]:
    answer = libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-named-block-nodes"}', 0)
    found: list[object] = json.loads(answer)["return"]
    return found
