"""Clones go back to their template, and to checkpoints of their own; the guest itself confirms it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.templates.building import build, clone_vm
from pytest_embedvm.guest.templates.origin import Origin
from tests.live.conftest import qemus

Clone = Callable[[str], VM]

POISON = """
echo poison >/root/poison; echo poison >/etc/poison
printf poison | dd of=/dev/vda conv=fsync 2>/dev/null
sleep 9999 >/dev/null 2>&1 </dev/null & sleep 9998 >/dev/null 2>&1 </dev/null &
hostname poisoned; date -s '2001-01-01 00:00' >/dev/null
ip link set eth0 down; mkdir /mnt2; mount -t tmpfs none /mnt2
"""

#: What a guest says of itself that a reset must not change, a line each.
IDENTITY = "hostname; cat /sys/class/net/eth0/address; cat /etc/machine-id 2>/dev/null; :"

#: Nothing of POISON; the first bytes of the disk.
STATE = """
ls /root /etc | grep -c poison; ps | grep -c '[s]leep 99'; grep -c mnt2 /proc/mounts; head -c 6 /dev/vda | od -An -c
"""


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[libvirt.virConnect]:
    before = qemus()
    connection = libvirt.open(embed.make_uri(tmp_path_factory.mktemp("root")))
    yield connection
    connection.close()
    assert qemus() <= before


@pytest.fixture(scope="module")
def template(connection: libvirt.virConnect, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guest with a disk and a network card, stopped."""
    base = tmp_path_factory.getbasetemp()
    image = build_guest((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "guest-cache")
    disk = tmp_path_factory.mktemp("disk") / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    xml = domain_xml(
        "template", kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, disk=disk, disk_format="raw"
    )
    folder = tmp_path_factory.mktemp("templates") / "template"
    build(connection, xml, folder)
    return folder


@pytest.fixture
def clone(connection: libvirt.virConnect, template: Path) -> Iterator[Clone]:
    with contextlib.ExitStack() as stack:

        def clone(name: str) -> VM:
            vm = clone_vm(connection, template, name, origin=Origin("clone"))
            stack.callback(end, vm)
            return vm

        yield clone


def end(vm: VM) -> None:
    with contextlib.suppress(libvirt.libvirtError):
        vm.domain.destroy()
    vm.close()


def state(vm: VM) -> list[str]:
    lines = vm.run(STATE).text.splitlines()
    return [" ".join(line.split()) for line in lines]


CLEAN = ["0", "0", "0", r"\0 \0 \0 \0 \0 \0"]


def assert_has_the_time(vm: VM) -> None:
    before = time.time()
    guest = float(vm.run("date +%s").text)
    assert before - 2 < guest < time.time() + 2


def wait_for_another_line(vm: VM, path: str) -> None:
    before = int(vm.run(f"wc -l <{path}").text)
    vm.wait_until(lambda: int(vm.run(f"wc -l <{path}").text) > before, timeout=60)


def test_a_reset_undoes_everything_but_who_it_is(clone: Clone) -> None:
    vm = clone("poisoned")
    told: list[int] = []
    stopped = threading.Event()

    def hear(_connection: object, _domain: object, event: int, *_rest: object) -> None:
        told.append(event)
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and told.count(event) == 2:
            stopped.set()

    vm.connection.domainEventRegisterAny(vm.domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, hear, None)
    before = vm.run(IDENTITY).text
    address = vm.wait_until(vm.addresses, timeout=60)
    drawn = vm.run("head -c 16 /dev/urandom | od -An -x").text
    vm.run(POISON)
    assert state(vm) != CLEAN
    vm.link(loss=1.0, up=False)
    vm.forward(7)
    capture = vm.capture()
    old, qemu = vm.domain, qemus()

    vm.reset_to_template()

    assert state(vm) == CLEAN
    assert vm.run(IDENTITY).text == before
    assert vm.run("cat /sys/class/net/eth0/address").text.strip() in vm.domain.XMLDesc()
    assert_has_the_time(vm)
    assert vm.run("head -c 16 /dev/urandom | od -An -x").text != drawn
    assert vm.domain.UUIDString() == old.UUIDString()
    assert old.isActive()  # who has kept the object goes on with it
    assert qemus() != qemu
    vm.wait_until(lambda: vm.run("ip -4 addr show eth0").text.count(str(address[0])), timeout=60)
    assert vm.run("ping -c 1 -W 10 192.168.122.1").returncode == 0
    assert [embed.impairments(vm.domain, card) for card in macs(vm)] == [(embed.Impairment(), embed.Impairment())]
    assert vm.captures == [capture]
    capture.stop()
    serve(vm)
    assert b"hello" in said(vm.forward(7))
    assert "--- embedvm: reset to its template ---" in vm.console.text
    vm.console.sendline("echo h''ere")
    assert vm.console.wait_for("^here$")
    vm.write_text("/root/poison", "again")
    vm.reset_to_template()
    assert state(vm) == CLEAN
    vm.domain.destroy()
    assert stopped.wait(60) or told.count(libvirt.VIR_DOMAIN_EVENT_STOPPED) >= 2


def macs(vm: VM) -> list[str]:
    return [word.split("'")[1] for word in vm.domain.XMLDesc().replace('"', "'").split("mac address=")[1:]]


def serve(vm: VM) -> None:
    vm.write_text("/tmp/hello", "#!/bin/sh\necho hello\n", 0o755)
    vm.run("nc -ll -p 7 -e /tmp/hello </dev/null >/dev/null 2>&1 &")
    vm.wait_until(lambda: b"hello" in said(vm.forward(7)), timeout=60)


def said(place: tuple[str, int]) -> bytes:
    """All that is said at PLACE until it hangs up."""
    with contextlib.suppress(OSError), socket.create_connection(place, timeout=5) as peer:
        return peer.recv(4096)
    return b""


def powered_off(vm: VM) -> None:
    vm.shutdown()


def destroyed(vm: VM) -> None:
    vm.domain.destroy()


def panicked(vm: VM) -> None:
    vm.run("(sleep 0.1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &")
    vm.console.wait_for("end Kernel panic")


def killed(vm: VM) -> None:
    pid = next(pid for pid in qemus() if f"guest={vm.name}," in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(pid, signal.SIGKILL)
    vm.wait_until(lambda: not vm.is_running, timeout=60)


def suspended(vm: VM) -> None:
    vm.domain.suspend()


def rebooted(vm: VM) -> None:
    vm.reboot()


def test_a_reset_works_whatever_has_become_of_the_guest(clone: Clone) -> None:
    vm = clone("ended")
    before = vm.run(IDENTITY).text
    for happens in (powered_off, destroyed, panicked, killed, suspended, rebooted):
        vm.run("touch /root/poison")
        happens(vm)
        vm.reset_to_template()
        assert state(vm) == CLEAN, happens
        assert vm.run(IDENTITY).text == before, happens
        vm.wait_until(lambda: True)
    vm.reset_to_template()  # twice in a row
    vm.reset_to_template()
    assert state(vm) == CLEAN


def test_checkpoints(clone: Clone) -> None:
    vm = clone("checkpointed")
    vm.wait_until(vm.addresses, timeout=60)
    vm.run("hostname mine; echo 1 >/root/number; printf first | dd of=/dev/vda conv=fsync 2>/dev/null")
    vm.run("(while :; do echo >>/root/alive; sleep 0.05; done) >/dev/null 2>&1 </dev/null &")
    vm.checkpoint("one")
    vm.run("echo 2 >/root/number; printf later | dd of=/dev/vda conv=fsync 2>/dev/null")
    vm.checkpoint("two")
    vm.run("echo 3 >/root/number; printf wrong | dd of=/dev/vda conv=fsync 2>/dev/null; hostname lost")
    drawn = set()

    def look() -> list[str]:
        drawn.add(vm.run("head -c 16 /dev/urandom | od -An -x").text)
        return vm.run("hostname; cat /root/number; head -c 5 /dev/vda").text.split()

    for name, expected in (
        ("one", ["1", "first"]),
        ("two", ["2", "later"]),
        ("one", ["1", "first"]),
        ("one", ["1", "first"]),
    ):
        vm.restore(name)
        assert look() == ["mine", *expected]
        assert_has_the_time(vm)
        wait_for_another_line(vm, "/root/alive")
        vm.run("echo 4 >/root/number; printf wrong | dd of=/dev/vda conv=fsync 2>/dev/null; hostname lost")
    assert len(drawn) == 4
    vm.restore("two")
    assert look() == ["mine", "2", "later"]
    assert vm.run("ping -c 1 -W 10 192.168.122.1").returncode == 0
    assert "--- embedvm: back at checkpoint 'two' ---" in vm.console.text
    with pytest.raises(libvirt.libvirtError, match="no checkpoint 'three'; there are one, two") as caught:
        vm.restore("three")
    assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED
    assert look() == ["mine", "2", "later"]  # it goes on
    vm.checkpoint("one")  # anew
    vm.run("echo 5 >/root/number")
    vm.restore("one")
    assert look() == ["mine", "2", "later"]
    killed(vm)
    with pytest.raises(libvirt.libvirtError) as caught:
        vm.restore("one")  # it went with the machine
    assert caught.value.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
    vm.reset_to_template()
    assert state(vm) == CLEAN
    with pytest.raises(libvirt.libvirtError, match="no checkpoint 'one'; there are none"):
        vm.restore("one")


def test_a_reset_that_failed_can_be_tried_again(clone: Clone, template: Path) -> None:
    vm = clone("unlucky")
    vm.run("touch /root/poison")
    away = template.rename(template.with_name("away"))
    try:
        with pytest.raises(libvirt.libvirtError, match="template"):
            vm.reset_to_template()
    finally:
        away.rename(template)
    vm.reset_to_template()
    assert state(vm) == CLEAN


def test_who_booted_cannot_be_reset(connection: libvirt.virConnect) -> None:
    xml = "<domain type='qemu'><name>cold</name><memory unit='MiB'>16</memory><os><type>hvm</type></os></domain>"
    with VM.boot(connection, xml) as vm:
        with pytest.raises(libvirt.libvirtError, match="is no clone") as caught:
            vm.reset_to_template()
        assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID
        assert vm.is_running
        vm.domain.destroy()
