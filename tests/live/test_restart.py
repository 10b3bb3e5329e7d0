"""Machines that outlive the process which started them, and what the next one hears of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.driver import status
from pytest_embedvm.driver.record import Record
from tests.live.conftest import PAUSED, qemus, uri, xml

#: What the application does until it is killed, or told to go on by a line.
APPLICATION = """
import os, signal, sys
from pytest_embedvm import libvirt, libvirt_qemu
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

    def qmp(self, *commands: str) -> None:
        """Commands through the second monitor, as somebody does who looks from outside."""
        path = self.root / "lib/qemu" / f"domain-{self.record.id}-a" / "debug.sock"
        script = (
            "import json, socket, sys\n"
            "sock = socket.socket(socket.AF_UNIX)\n"
            "sock.connect(sys.argv[1])\n"
            "file = sock.makefile('rw')\n"
            "file.readline()\n"
            "for command in ('qmp_capabilities', *sys.argv[2:]):\n"
            "    file.write(json.dumps({'execute': command})); file.flush()\n"
            "    while 'event' in (reply := json.loads(file.readline())): pass\n"
            "    assert 'return' in reply, reply\n"
        )
        subprocess.run([sys.executable, "-c", script, path.name, *commands], cwd=path.parent, check=True, timeout=60)

    def kill_qemu(self) -> None:
        process = self.record.process
        assert process
        _kill(process.pid)


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


def test_a_guest_that_powered_off_meanwhile(place: Place) -> None:
    place.run(f"create({xml(devices=ISA_EXIT)!r})")
    place.qmp("system_powerdown") if False else None


ISA_EXIT = ""
