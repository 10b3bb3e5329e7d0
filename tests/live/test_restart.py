"""Machines that outlive the process which started them, and what the next one hears of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from pytest_embedvm import embed, libvirt, libvirt_qemu
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.restart import status
from pytest_embedvm.driver.restart.record import Record
from pytest_embedvm.qemu import image, monitor
from tests.driver import tiny
from tests.live.conftest import PAUSED, qemus, uri, xml

#: What the application does until it is killed, or told to go on by a line.
APPLICATION = """
import os, signal, sys
from pytest_embedvm import libvirt
connection = libvirt.open(sys.argv[1], keep_running=True)
def create(xml, flags=0):
    return connection.createXML(xml, flags)
exec(sys.argv[2])
print("up", flush=True)
sys.stdin.readline()
"""
STOPPED_FAILED = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED)
STOPPED_SHUTDOWN = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN)
SHUTDOWN_GUEST = (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST)
SUSPENDED = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED)
RESUMED = (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED)


@pytest.fixture(autouse=True)
def _index_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots whose owner is dead must not be found, and reaped, by the sessions that other tests start meanwhile."""
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache-of-dead-roots"))


class Ear:
    """Callbacks that are given to `open`."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()

    def events(self) -> list[tuple[int, Callable[..., None], str]]:
        kinds = (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2)
        return [(kind, self._hear, "opaque") for kind in kinds]

    def _hear(self, _connection: object, domain: libvirt.virDomain, *what: Any) -> None:
        with self._changed:
            assert what[-1] == "opaque"
            self.heard.append((domain.name(), *what[:-1]))
            self._changed.notify_all()

    def wait(self, *expected: tuple[int, ...], name: str = "a") -> None:
        wanted = [(name, *event) for event in expected]
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.heard) >= len(wanted), 30), self.heard
            assert self.heard == wanted


class Place:
    """A root, and applications that have it open one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = uri(root)

    @contextlib.contextmanager
    def application(self, *do: str) -> Iterator[subprocess.Popen[str]]:
        """One that has DOne this, and runs; it is killed in the end."""
        words = [sys.executable, "-c", APPLICATION, self.uri, "\n".join(do)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stdout
            assert process.stdout.readline() == "up\n"
            yield process
            process.kill()

    def run(self, *do: str) -> None:
        """An application that does this and is killed."""
        with self.application(*do):
            pass

    def open(self, ear: Ear | None = None, **keywords: Any) -> libvirt.virConnect:
        return libvirt.open(self.uri, events=ear.events() if ear else (), **keywords)

    @property
    def records(self) -> list[Record]:
        return status.machines_of(self.root)

    @property
    def record(self) -> Record:
        (record,) = self.records
        return record

    def xml(self, devices: str = "", *, name: str = "a", extra: str = "") -> str:
        """A guest that obeys letters on its serial port, COM1 of which is a socket."""
        return tiny.xml(self.root.parent / "guest", name, devices=devices, extra=extra)

    def tell(self, letter: bytes) -> None:
        asyncio.run(tiny.tell(self.root.parent / "guest", letter))

    def qmp(self, *commands: str) -> list[Any]:
        """What the second monitor answers, as to somebody who looks from outside; QEMU's events are left out."""
        path = self.root / "lib/qemu" / f"domain-{self.record.id}-a" / "debug.sock"
        for _ in range(20):
            with connect_unix(path) as sock, sock.makefile("rw") as file:
                sock.settimeout(30)
                if "QMP" in file.readline():  # else QEMU has not noticed yet that who was there before is gone
                    return [_ask(file, command) for command in ("qmp_capabilities", *commands)][1:]
        pytest.fail(f"{path} hangs up")

    def await_runstate(self, runstate: str) -> None:
        deadline = time.monotonic() + 30
        while (found := self.qmp("query-status")[0]["status"]) != runstate:
            assert time.monotonic() < deadline, found

    def kill_qemu(self) -> None:
        process = self.record.process
        assert process
        _kill(process.pid)


def _ask(file: IO[str], command: str) -> Any:
    file.write(json.dumps({"execute": command}))
    file.flush()
    while "event" in (answer := json.loads(file.readline())):
        pass
    return answer["return"]


def _kill(pid: int) -> None:
    descriptor = os.pidfd_open(pid)
    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path / "root")
    yield place
    for record in place.records:
        if record.process:
            _kill(record.process.pid)
        pytest.fail(f"{record.name} still runs")
    left = [str(path) for path in (tmp_path / "root").rglob("*") if path.is_socket() or path.name.startswith(".new")]
    assert left == []
    assert list((tmp_path / "root/run/qemu").glob("*.xml")) == []
    assert list((tmp_path / "root/run/qemu").glob("*.pid")) == []
    assert list((tmp_path / "root/lib/qemu").glob("domain-*")) == []


GUEST = """<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<interface type='user'><model type='virtio'/></interface>"""


def test_it_is_found_as_it_was(place: Place) -> None:
    place.run(
        f"create({xml('first')!r}, 1).destroy()",
        f"dom = create({xml(devices=GUEST)!r})",
        f"open({str(place.root / 'live.xml')!r}, 'w').write(dom.XMLDesc())",
    )
    before = place.record
    with place.open() as connection:
        domain = connection.lookupByName("a")
        assert domain.ID() == before.id == 2
        assert domain.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED]
        assert domain.XMLDesc() == (place.root / "live.xml").read_text()
        assert not domain.isPersistent()
        assert libvirt_qemu.qemuMonitorCommand(domain, "info status", 1).startswith("VM status: running")
        domain.suspend()
        stream = connection.newStream()
        domain.openConsole(None, stream)
        stream.abort()
        assert connection.createXML(xml("next"), PAUSED).ID() == 3
        domain.destroy()
    (place.root / "live.xml").unlink()


def test_close_leaves_it_and_the_same_process_finds_it_again(place: Place) -> None:
    before = qemus()
    for turn in range(3):
        with place.open(keep_running=True) as connection:
            if turn == 0:
                connection.createXML(xml())
            (domain,) = connection.listAllDomains()
            assert domain.ID() == 1
            assert len(qemus() - before) == 1
    with place.open() as connection:
        connection.lookupByID(1).destroy()
    assert qemus() == before


def test_one_with_auto_destroy_ends_with_its_process(place: Place) -> None:
    with place.application(f"create({xml()!r}, libvirt.VIR_DOMAIN_START_AUTODESTROY)") as application:
        (record,) = place.records
        assert not record.kept
        application.kill()
        application.wait()
    ear = Ear()
    with place.open(ear) as connection:
        assert connection.listAllDomains() == []
        ear.wait((libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED))


def test_one_that_died_meanwhile(place: Place) -> None:
    place.run(f"connection.defineXML({xml()!r}).create()", "")
    place.kill_qemu()
    ear = Ear()
    with place.open(ear) as connection:
        ear.wait(STOPPED_FAILED)
        domain = connection.lookupByName("a")
        assert domain.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED]
        domain.create()
        assert domain.ID() == 2


PANIC = "<panic model='isa'/>"
CRASHED = (libvirt.VIR_DOMAIN_EVENT_CRASHED, libvirt.VIR_DOMAIN_EVENT_CRASHED_PANICKED)
STOPPED_CRASHED = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED)


def test_a_guest_that_powered_off_meanwhile(place: Place) -> None:
    place.run(f"create({place.xml()!r})")
    place.tell(tiny.POWER_OFF)
    place.await_runstate("shutdown")  # QEMU waits for who is to end it
    ear = Ear()
    with place.open(ear) as connection:
        ear.wait(SHUTDOWN_GUEST, STOPPED_SHUTDOWN)
        assert connection.listAllDomains() == []


def test_a_guest_that_was_to_restart_and_powered_off_meanwhile(place: Place) -> None:
    place.run(f"create({place.xml(extra='<on_poweroff>restart</on_poweroff>')!r})")
    place.tell(tiny.POWER_OFF)
    place.await_runstate("shutdown")
    ear = Ear()
    with place.open(ear) as connection:
        place.await_runstate("running")
        place.tell(b"x")
        connection.lookupByName("a").destroy()
        assert ear.heard[:1] != [("a", *SHUTDOWN_GUEST)]


def test_a_guest_that_panicked_meanwhile(place: Place) -> None:
    place.run(f"create({place.xml(PANIC)!r})")
    place.tell(tiny.PANIC)
    place.await_runstate("guest-panicked")
    ear = Ear()
    with place.open(ear):
        ear.wait(CRASHED, STOPPED_CRASHED)


def test_paused_and_resumed_behind_everybodys_back(place: Place) -> None:
    place.run(f"create({xml()!r})")
    place.qmp("stop")
    ear = Ear()
    with place.open(ear) as connection:
        ear.wait(SUSPENDED)
        assert connection.lookupByName("a").state() == [
            libvirt.VIR_DOMAIN_PAUSED,
            libvirt.VIR_DOMAIN_PAUSED_UNKNOWN,
        ]
    place.qmp("cont")
    ear = Ear()
    with place.open(ear) as connection:
        ear.wait(RESUMED)
        connection.lookupByName("a").destroy()


def test_a_pause_of_the_users_stays_his(place: Place) -> None:
    place.run(f"create({xml()!r}).suspend()")
    ear = Ear()
    with place.open(ear) as connection:
        (domain,) = connection.listAllDomains()
        assert domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]
        assert ear.heard == []
        domain.destroy()


def test_what_was_emitted_and_not_told_is_told_at_the_next_open(place: Place) -> None:
    place.run(
        "import threading",
        "entered = threading.Event()",
        "def block(*_): entered.set(); threading.Event().wait()",
        "connection.domainEventRegisterAny(None, 0, block, None)",
        f"dom = create({xml()!r})",
        "entered.wait(30)",
        "dom.suspend()",
        "dom.destroy()",
    )
    ear = Ear()
    with place.open(ear):
        events = (
            RESUMED,
            (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED),
            SUSPENDED,
            (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST),
            (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED),
        )
        ear.wait(*events)
    ear = Ear()
    with place.open(ear):
        pass
    assert ear.heard == []


def test_a_close_tells_what_happened_before_it(place: Place) -> None:
    ear = Ear()
    with place.open(ear) as connection:
        domain = connection.createXML(xml(), PAUSED)
        domain.destroy()
    assert ear.heard[-1][1:] == (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)


def test_a_close_from_inside_a_callback_does_not_wait_for_it(place: Place) -> None:
    connection = place.open(keep_running=True)
    closed = threading.Event()
    ear = Ear()

    def close(*_: object) -> None:
        connection.close()
        closed.set()

    connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, close, None)
    connection.createXML(xml(), PAUSED)
    assert closed.wait(30)
    with place.open(ear) as connection:
        # The first was being told; the second was not told any more.
        ear.wait(SUSPENDED)
        connection.lookupByName("a").destroy()


def test_callbacks_of_a_root_are_there_before_it_is_open(place: Place) -> None:
    place.run(f"create({xml()!r})")
    place.kill_qemu()
    ear = Ear()
    numbers = [embed.register_events(place.root, *event) for event in ear.events()]
    with place.open():
        ear.wait(STOPPED_FAILED)
    for number in numbers:
        embed.deregister_events(number)
    with place.open() as connection:
        connection.createXML(xml(), PAUSED).destroy()
    assert len(ear.heard) == 1
    with pytest.raises(KeyError):
        embed.deregister_events(numbers[0])
    with pytest.raises(libvirt.libvirtError, match="eventID in virConnectDomainEventRegisterAny must be less than"):
        libvirt.open(place.uri, events=[(1000, print, None)])


def test_a_qemu_that_hangs_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place.run(f"create({xml()!r})")
    process = place.record.process
    assert process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(monitor, "CONNECT_TIMEOUT_S", 1.0)
    ear = Ear()
    with place.open(ear):
        ear.wait(STOPPED_FAILED)
    assert f"QEMU {process.pid} is lost: Timed out during operation: no QMP greeting from a within 1 s" in caplog.text
    assert not process.alive


def test_a_status_that_cannot_be_read_is_set_aside(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    place.run(f"create({xml()!r})")
    process = place.record.process
    path = place.root / "run/qemu/a.xml"
    good = path.read_text()
    path.write_text(good[: len(good) // 2])
    assert status.machines_of(place.root) == []
    with place.open() as connection:
        assert connection.listAllDomains() == []
    assert f"{path} cannot be read" in caplog.text
    aside = path.with_name("a.xml.unreadable")
    assert aside.read_text() == good[: len(good) // 2]
    aside.unlink()
    path.write_text(good)
    with place.open() as connection:
        assert place.record.process == process
        connection.lookupByName("a").destroy()


@pytest.mark.parametrize("seed", range(10))
def test_killed_at_any_moment_of_a_start(place: Place, seed: int) -> None:
    moment = random.Random(seed).uniform(0, 0.1)
    killer = (
        f"import random, threading, time; threading.Timer({moment}, os.kill, (os.getpid(), signal.SIGKILL)).start()"
    )
    words = [sys.executable, "-c", APPLICATION, place.uri, f"{killer}\ncreate({xml()!r}, 1)\nprint('made', flush=True)"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    made = subprocess.run(words, stdout=subprocess.PIPE, stdin=subprocess.PIPE, env=environment, check=False).stdout
    with place.open() as connection:
        found = connection.listAllDomains()
        assert [domain.state()[0] for domain in found] in ([], [libvirt.VIR_DOMAIN_PAUSED])
        assert found or not made
        for domain in found:
            domain.destroy()


def _disk(folder: Path) -> tuple[Path, str]:
    """An image of 64 MiB that stands on another one, and the disk that has it."""
    folder.mkdir()
    base, top = folder / "base.raw", folder / "top.qcow2"
    base.write_bytes(b"x" * 2**20 * 64)
    image.create_overlay(base, top, "raw")
    driver, source = "<driver name='qemu' type='qcow2'/>", f"<source file='{top}'/>"
    return top, f"<disk type='file' device='disk'>{driver}{source}<target dev='vda' bus='virtio'/></disk>"


PULL = libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL


def test_a_block_job_that_ended_meanwhile(place: Place) -> None:
    top, disk = _disk(place.root.parent / "disks")
    # Fast enough to end in some seconds, too slow to end before the application does.
    place.run(f"create({xml(devices=disk)!r}).blockPull('vda', 8)")
    deadline = time.monotonic() + 60
    while place.qmp("query-jobs")[0][0]["status"] != "concluded":
        assert time.monotonic() < deadline
    ear = Ear()
    with place.open(ear) as connection:
        ear.wait(("vda", PULL, libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED))
        (domain,) = connection.listAllDomains()
        assert domain.blockJobInfo("vda") == {}
        assert "<backingStore/>" in domain.XMLDesc()
        assert place.qmp("query-jobs") == [[]]
        domain.destroy()
    assert image.backing(top) is None


def test_a_block_job_that_goes_on(place: Place) -> None:
    top, disk = _disk(place.root.parent / "disks")
    place.run(
        f"create({xml(devices=disk)!r}).blockPull({str(top)!r}, 65536, libvirt.VIR_DOMAIN_BLOCK_PULL_BANDWIDTH_BYTES)"
    )
    ear = Ear()
    with place.open(ear) as connection:
        (domain,) = connection.listAllDomains()
        info = domain.blockJobInfo("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        assert (info["type"], info["bandwidth"], info["end"]) == (PULL, 65536, 2**26)
        with pytest.raises(libvirt.libvirtError, match="disk 'vda' already in active block job"):
            domain.blockPull("vda")
        assert domain.blockJobAbort("vda") == 0
        ear.wait(("vda", PULL, libvirt.VIR_DOMAIN_BLOCK_JOB_CANCELED))
        assert domain.blockJobInfo("vda") == {}
        with pytest.raises(libvirt.libvirtError, match="does not have an active block job"):
            domain.blockJobAbort("vda")
        domain.destroy()


def test_what_runs_beside_it_is_found_too(place: Place) -> None:
    passt = "<interface type='user'><backend type='passt'/><model type='virtio'/></interface>"
    if shutil.which("passt") is None:
        pytest.skip("this host has no passt")
    place.run(f"create({xml(devices=passt)!r})")
    (companion,) = place.record.companions
    assert companion.identity.alive
    with place.open() as connection:
        connection.lookupByName("a").destroy()
        assert not companion.identity.alive


def test_several_are_taken_up_side_by_side(place: Place) -> None:
    names = ["b", "c", "d"]
    place.run(f"for name in {names}: create({xml('NAME')!r}.replace('NAME', name))")
    ids = {record.name: record.id for record in place.records}
    with place.open() as connection:
        assert {domain.name(): domain.ID() for domain in connection.listAllDomains()} == ids
        for domain in connection.listAllDomains():
            domain.destroy()


FORKS = """
child = os.fork()
if child == 0:
    signal.pause()
    os._exit(0)
print(child, flush=True)
"""


def test_a_child_that_was_forked_does_not_hold_the_monitor(place: Place) -> None:
    create = f"create({xml()!r})"
    words = [sys.executable, "-c", APPLICATION, place.uri, f"{create}\n{FORKS}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        process.wait()
        try:
            with place.open() as connection:
                connection.lookupByName("a").destroy()
        finally:
            _kill(child)


def test_what_was_plugged_in_is_known_to_who_opens_the_root_next(place: Place, tmp_path: Path) -> None:
    (tmp_path / "b.raw").write_bytes(bytes(1 << 20))
    room = "".join(f"<controller type='pci' index='{index}' model='pcie-root-port'/>" for index in (1, 2, 3, 4))
    disk = f"<disk type='file'><source file='{tmp_path}/b.raw'/><target dev='sdb' bus='usb'/></disk>"
    channel = "<channel type='unix'><target type='virtio' name='org.y'/></channel>"
    card = """<interface type='network'><source network='default'/><mac address='52:54:00:77:00:09'/>
      <model type='virtio'/></interface>"""
    place.run(
        f"dom = create({xml(devices=room)!r}, 1)",
        *(f"dom.attachDevice({device!r})" for device in (disk, channel, card)),
        f"open({str(place.root / 'live.xml')!r}, 'w').write(dom.XMLDesc())",
    )
    assert [path.name for path in place.record.files if path.name in ("org.y", "net0.sock")] == ["org.y", "net0.sock"]
    with place.open() as connection:
        domain = connection.lookupByName("a")
        assert domain.XMLDesc() == (place.root / "live.xml").read_text()
        domain.detachDevice(disk)
        domain.detachDevice(channel)
        assert not any(path.name == "org.y" for path in place.record.files)
        nodes = libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-named-block-nodes"}', 0)
        assert json.loads(nodes)["return"] == []
        domain.attachDevice(channel)
        domain.destroy()
