"""Clones of the built-in guest: machines as any other, and it is the guest that says so."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from tests.live.conftest import Told

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED
LIVE = libvirt.VIR_MIGRATE_LIVE
DISK = (
    """<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vd{}' bus='virtio'/></disk>"""
)
NIC = """<interface type='network'><mac address='52:54:00:77:00:01'/><source network='default'/>
  <model type='virtio'/></interface>"""
#: What a guest remembers that goes on: a file in its memory, one on its disk, and a process.
REMEMBER = "echo in memory >/note; echo on disk | dd of=/dev/vda conv=fsync 2>/dev/null; sleep 100000 & echo $! >/pid"
RECALL = "cat /note; head -c 8 /dev/vda; kill -0 $(cat /pid)"
REMEMBERED = "in memory\non disk\n"

Connect: TypeAlias = Callable[..., libvirt.virConnect]
Make: TypeAlias = Callable[..., Path]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Make:
    """Makes a template of the built-in guest, with a disk."""
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")
    base = tmp_path_factory.getbasetemp()
    image = build_guest((base.parent if hasattr(request.config, "workerinput") else base) / "guest-cache")

    def make(*, vcpus: int = 1) -> Path:
        folder = tmp_path_factory.mktemp("template")
        disk = folder / "disk.raw"
        disk.write_bytes(bytes(1 << 20))
        xml = domain_xml(
            "template", kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, arch=image.arch, vcpus=vcpus
        ).replace("</devices>", DISK.format(disk, "a") + "</devices>")
        with libvirt.open(embed.make_uri(folder / "root")) as connection:
            assert embed.obstacles(connection, xml) == []
            domain = embed.begin_template(connection, xml, folder / "frozen", PAUSED)
            with VM(domain) as vm:
                domain.resume()
                vm.wait_ready()
                vm.run(f"({REMEMBER}) </dev/null >/dev/null 2>&1")
            embed.freeze(domain, folder / "frozen")
        assert not any(disk.read_bytes()), "the domain's own image was written"
        return folder / "frozen"

    return make


@pytest.fixture(scope="session")
def template(make: Make) -> Path:
    """One for all tests."""
    return make()


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Opens roots below tmp_path."""
    with contextlib.ExitStack() as stack:
        yield lambda root="root": stack.enter_context(libvirt.open(embed.make_uri(tmp_path / root)))


@pytest.fixture
def conn(connect: Connect) -> libvirt.virConnect:
    return connect()


def attached(domain: libvirt.virDomain) -> VM:
    """The guest of DOMAIN, which answers."""
    vm = VM(domain)
    vm.wait_ready()
    return vm


@pytest.fixture
def clone(conn: libvirt.virConnect, template: Path) -> Iterator[VM]:
    with attached(embed.clone(conn, template, "c")) as vm:
        yield vm


def remembers(vm: VM) -> bool:
    return vm.run(RECALL).text == REMEMBERED


def test_it_goes_on_where_the_template_was_stopped(conn: libvirt.virConnect, template: Path) -> None:
    told = Told(conn)
    before = {path: path.stat().st_mtime_ns for path in template.rglob("*")}
    first, second = (embed.clone(conn, template, name) for name in "cd")
    with attached(first) as one, attached(second) as other:
        assert remembers(one)
        one.run("echo changed >/note; echo changed | dd of=/dev/vda conv=fsync; kill $(cat /pid)")
        assert remembers(other)
    assert first.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_RESTORED]
    assert conn.lookupByName("c").UUID() == first.UUID() != second.UUID()
    assert len({mac(domain) for domain in (first, second)}) == 2
    assert [event for event in told.events if event[0] == "c"] == [
        ("c", libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_RESTORED),
        ("c", libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT),
    ]
    assert {path: path.stat().st_mtime_ns for path in template.rglob("*")} == before


def mac(domain: libvirt.virDomain) -> str:
    (found,) = re.findall(r"mac address='(.*?)'", domain.XMLDesc())
    return str(found)


def test_one_that_waits(conn: libvirt.virConnect, template: Path) -> None:
    domain = embed.clone(conn, template, "c", PAUSED)
    assert domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED
    domain.resume()
    with attached(domain) as vm:
        assert remembers(vm)


def test_eight_at_once(conn: libvirt.virConnect, template: Path) -> None:
    with ThreadPoolExecutor(8) as threads, contextlib.ExitStack() as stack:
        domains = list(threads.map(lambda n: embed.clone(conn, template, f"c{n}"), range(8)))
        vms = [stack.enter_context(VM(domain)) for domain in domains]
        for number, vm in enumerate(vms):
            vm.wait_ready()
            vm.run(f"echo {number} >/note; echo {number} | dd of=/dev/vda conv=fsync")
        assert [vm.run("cat /note; head -c 2 /dev/vda").text for vm in vms] == [f"{n}\n{n}\n" for n in range(8)]
    assert conn.numOfDomains() == 8


def test_it_boots_again(clone: VM) -> None:
    clone.run("sleep 2")  # until QEMU 7.2 has had its card announced, were it not told to go on with that
    clone.reboot()
    assert clone.run("test ! -e /note && head -c 8 /dev/vda").text == "on disk\n"
    clone.run("echo later | dd of=/dev/vda conv=fsync")
    clone.shutdown()
    assert not clone.is_running


def test_several_cpus(make: Make, conn: libvirt.virConnect) -> None:
    with attached(embed.clone(conn, make(vcpus=2), "c")) as vm:
        assert remembers(vm)
        assert vm.run("nproc").text == "2\n"
        for cpu in "01":
            assert vm.run(f"taskset -c {cpu} sh -c 'cut -d\" \" -f39 /proc/self/stat'").text.strip() == cpu
        vm.reboot()
        assert vm.run("nproc").text == "2\n"


def test_saved_and_restored(clone: VM, tmp_path: Path) -> None:
    conn, uuid = clone.connection, clone.domain.UUID()
    clone.run("echo later >>/note")
    for number in range(2):
        image = str(tmp_path / f"image{number}")
        conn.lookupByName("c").save(image)
        assert conn.numOfDomains() == 0
        conn.restore(image)
        with attached(conn.lookupByName("c")) as vm:
            assert vm.domain.UUID() == uuid
            assert vm.run(RECALL).text == REMEMBERED.replace("memory\n", "memory\nlater\n")
            vm.run("echo on disc | dd of=/dev/vda conv=fsync; echo on disk | dd of=/dev/vda conv=fsync")


def test_it_becomes_persistent(clone: VM) -> None:
    conn = clone.connection
    domain = conn.defineXML(clone.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    domain.managedSave()
    assert not domain.isActive()
    domain.create()
    with attached(domain) as vm:
        assert remembers(vm)
        vm.run("echo for ever | dd of=/dev/vda conv=fsync; sync")
    domain.destroy()
    domain.create()  # it boots, from disks that are its own
    with attached(domain) as vm:
        assert vm.run("test ! -e /note && head -c 9 /dev/vda").text == "for ever\n"
    domain.destroy()
    domain.undefine()


def test_it_migrates(clone: VM, connect: Connect) -> None:
    elsewhere = connect("elsewhere")
    clone.run("(while :; do date +%s >/tmp/now; usleep 10000; done) </dev/null >/dev/null 2>&1 &")
    moved = clone.domain.migrate(elsewhere, LIVE)
    assert not clone.is_running
    with attached(moved) as vm:
        assert moved.connect() is elsewhere
        assert remembers(vm)
        vm.run("rm /tmp/now; until [ -e /tmp/now ]; do usleep 10000; done")
        vm.run("echo moved | dd of=/dev/vda conv=fsync")
        assert vm.run("head -c 6 /dev/vda").text == "moved\n"
    with pytest.raises(libvirt.libvirtError, match="is no clone of a template"):
        embed.reset_to_template(moved)


def test_a_disk_and_a_card_are_plugged_in(clone: VM, tmp_path: Path) -> None:
    (tmp_path / "b.raw").write_bytes(b"plugged in" + bytes(1 << 20))
    disk = DISK.format(tmp_path / "b.raw", "b")
    clone.domain.attachDevice(disk)
    clone.domain.attachDevice(NIC)
    assert clone.run("until head -c 10 /dev/vdb 2>/dev/null; do usleep 20000; done").text == "plugged in"
    found = clone.run("until grep -l 52:54:00:77:00:01 /sys/class/net/*/address; do usleep 20000; done").text
    card = found.split("/")[-2]
    clone.run(f"ip link set {card} up; until [ $(cat /sys/class/net/{card}/carrier) = 1 ]; do usleep 20000; done")
    clone.domain.detachDevice(disk)
    clone.domain.detachDevice(NIC)
    assert "vdb" not in clone.run("ls /sys/block").text
    assert remembers(clone)


def test_its_disk_gets_a_content_of_its_own(clone: VM, template: Path) -> None:
    told: list[tuple[str, int, int]] = []
    done = threading.Event()

    def note(_conn: object, _domain: object, disk: str, kind: int, status: int, _opaque: object) -> None:
        told.append((disk, kind, status))
        done.set()

    clone.connection.domainEventRegisterAny(clone.domain, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, note, None)
    assert str(template) in clone.domain.XMLDesc()
    clone.domain.blockPull("vda")
    assert done.wait(60)
    assert told == [("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL, libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED)]
    assert str(template) not in clone.domain.XMLDesc()
    assert remembers(clone)


def test_back_to_the_template(conn: libvirt.virConnect, template: Path, tmp_path: Path) -> None:
    first = domain = embed.clone(conn, template, "c")
    card = mac(first)
    for _ in range(2):
        with attached(domain) as vm:
            assert remembers(vm)
            vm.run("rm /note; echo changed | dd of=/dev/vda conv=fsync; kill $(cat /pid)")
            domain.attachDevice(NIC)
        again = embed.reset_to_template(domain)
        assert (again.UUID(), again.name(), mac(again)) == (first.UUID(), "c", card)
        assert NIC.split("'")[3] not in again.XMLDesc()
        domain = again
    domain.destroy()
    assert list((tmp_path / "root/lib/qemu/clones").iterdir()) == []
    with attached(embed.reset_to_template(domain)) as vm:
        assert remembers(vm)


def test_back_to_a_checkpoint(conn: libvirt.virConnect, template: Path) -> None:
    domain = embed.clone(conn, template, "c")
    with attached(domain) as vm:
        for note in "one", "two":
            vm.run(
                f"({REMEMBER}) </dev/null >/dev/null 2>&1; echo {note} >/note; echo {note} | dd of=/dev/vda conv=fsync"
            )
            embed.checkpoint(domain, note)
        assert vm.run("cat /note").text == "two\n"  # it goes on
        assert conn.lookupByName("c").ID() == domain.ID()
    card = mac(domain)
    for note in "one", "two", "one":
        domain.attachDevice(NIC)
        domain = embed.restore(domain, note)
        assert (domain.name(), mac(domain)) == ("c", card)
        with attached(domain) as vm:
            assert vm.run("cat /note; head -c 4 /dev/vda; kill -0 $(cat /pid)").text == f"{note}\n{note}\n"
            vm.run("echo changed >/note; echo changed | dd of=/dev/vda conv=fsync; kill $(cat /pid)")
    with pytest.raises(libvirt.libvirtError, match="no checkpoint 'three'; there are one, two"):
        embed.restore(domain, "three")
    with attached(embed.reset_to_template(domain)) as vm:
        assert remembers(vm)
    with pytest.raises(libvirt.libvirtError, match="no checkpoint 'one'; there are none"):
        embed.restore(domain, "one")


def test_a_template_of_a_clone(conn: libvirt.virConnect, template: Path, tmp_path: Path) -> None:
    domain = embed.template_from(conn, template, tmp_path / "second", "s", PAUSED)
    domain.resume()
    with attached(domain) as vm:
        assert remembers(vm)
        vm.run("echo and more >>/note; echo and more | dd of=/dev/vda bs=512 seek=1 conv=fsync")
    embed.freeze(domain, tmp_path / "second")
    for folder, more in (tmp_path / "second", "and more\n"), (template, ""):
        with attached(embed.clone(conn, folder, "c")) as vm:
            assert vm.run("cat /note").text == f"in memory\n{more}"
            assert (
                vm.run("head -c 8 /dev/vda; dd if=/dev/vda bs=512 skip=1 count=1 | tr -d '\\0'").text
                == f"on disk\n{more}"
            )
            vm.domain.destroy()


def test_what_is_said_when_it_cannot_be(conn: libvirt.virConnect, template: Path, tmp_path: Path) -> None:
    embed.clone(conn, template, "c", PAUSED)
    for call, code in (
        (lambda: embed.clone(conn, template, "c"), libvirt.VIR_ERR_OPERATION_FAILED),
        (lambda: embed.clone(conn, tmp_path / "none", "d"), libvirt.VIR_ERR_OPERATION_FAILED),
        (lambda: embed.freeze(conn.lookupByName("c"), template), libvirt.VIR_ERR_OPERATION_INVALID),
        (lambda: embed.obstacles(conn, "<domain"), libvirt.VIR_ERR_XML_DETAIL),
        (lambda: embed.clone(conn, template, "d", 1 << 20), libvirt.VIR_ERR_INVALID_ARG),
        (lambda: embed.template_from(conn, template, template, "d"), libvirt.VIR_ERR_SYSTEM_ERROR),
    ):
        with pytest.raises(libvirt.libvirtError) as caught:
            call()
        assert caught.value.get_error_code() == code, caught.value
    assert conn.numOfDomains() == 1


def test_closed_and_read_only_connections(template: Path, tmp_path: Path) -> None:
    with libvirt.open(embed.make_uri(tmp_path / "root")) as conn:
        domain = embed.clone(conn, template, "c", PAUSED)
        watching = libvirt.openReadOnly(embed.make_uri(tmp_path / "root"))
        with watching, pytest.raises(libvirt.libvirtError, match="read only access prevents clone"):
            embed.clone(watching, template, "d")
    for call in lambda: embed.reset_to_template(domain), lambda: embed.clone(conn, template, "d"):
        with pytest.raises(libvirt.libvirtError) as caught:
            call()
        assert caught.value.get_error_code() == libvirt.VIR_ERR_INVALID_CONN
