"""However it ends, nothing of a machine stays: with its connection, its process, or in the middle of a call."""

from __future__ import annotations

import concurrent.futures
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver import job
from pytest_embedvm.qemu import monitor
from tests.live.conftest import PAUSED, Open, Told, descriptors, qemus, uri, xml

AUTO = PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
#: What a call may say whose machine ends under it.
REFUSALS = {
    libvirt.VIR_ERR_OPERATION_INVALID,
    libvirt.VIR_ERR_OPERATION_FAILED,
    libvirt.VIR_ERR_INTERNAL_ERROR,
    libvirt.VIR_ERR_NO_DOMAIN,
}
#: A deadline of the driver's in these tests.
SHORT_S = 1.0

CHILD = """
import sys, signal
from pytest_embedvm import libvirt
connection = libvirt.open(sys.argv[1])
domain = connection.createXML(sys.argv[2], libvirt.VIR_DOMAIN_START_PAUSED)
print("up", flush=True)
if sys.argv[3] == "wait":
    signal.pause()
"""


def test_auto_destroy_ends_with_its_own_connection(connect: Open) -> None:
    first, second = connect(), connect()
    told = Told(second)
    first.createXML(xml("mine"), AUTO)
    theirs = second.createXML(xml("theirs"), AUTO)
    first.close()
    assert [domain.name() for domain in second.listAllDomains()] == ["theirs"]
    assert theirs.isActive()
    assert told.stopped()[-1] == ("mine", libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)


@pytest.mark.parametrize("end", ["SIGKILL", "SIGTERM", "exit"])
def test_a_machine_ends_with_its_process(tmp_path: Path, end: str) -> None:
    mode = "exit" if end == "exit" else "wait"
    words = [sys.executable, "-c", CHILD, uri(tmp_path / "root"), xml(), mode]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ) as child:
        assert child.stdout
        assert child.stdout.readline() == b"up\n"
        machines = [os.pidfd_open(pid) for pid in qemus(child.pid)] if mode == "wait" else []
        if mode == "wait":
            assert len(machines) == 1
            child.send_signal(signal.Signals[end])
        child.wait(30)
    for machine in machines:
        assert select.select([machine], [], [], 30)[0], "QEMU lives on"
        os.close(machine)
    connection = libvirt.open(uri(tmp_path / "root"))
    assert connection.listAllDomains() == []
    connection.createXML(xml(), PAUSED).destroy()
    connection.close()


@pytest.mark.parametrize("seed", range(8))
def test_an_interrupted_start_leaves_nothing(connect: Open, seed: int) -> None:
    connection = connect()
    connection.createXML(xml(), PAUSED).destroy()
    before = descriptors(), qemus()
    moment = random.Random(seed).uniform(0, 0.05)
    timer = threading.Timer(moment, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    try:
        timer.start()
        connection.createXML(xml(), PAUSED)
        threading.Event().wait(10)
    except KeyboardInterrupt:
        timer.join()
    for domain in connection.listAllDomains():  # it was faster
        domain.destroy()
    assert (descriptors(), qemus()) == before
    connection.createXML(xml(), PAUSED).destroy()


@pytest.mark.parametrize("seed", range(20))
def test_qemu_killed_at_any_moment(connect: Open, seed: int) -> None:
    connection = connect()
    told = Told(connection)
    chance = random.Random(seed)
    connection.defineXML(xml("kept"))
    domain = connection.lookupByName("kept")
    before = descriptors(), qemus()
    killer = threading.Thread(target=_kill_soon, args=(chance.uniform(0, 0.08), before[1]))
    killer.start()
    for call in (domain.create, domain.suspend, domain.resume, domain.destroy):
        _only_refused(call)
    killer.join()
    if domain.isActive():
        _only_refused(domain.destroy)
    started = sum(e[1] == libvirt.VIR_DOMAIN_EVENT_STARTED for e in told.events)
    events = told.stopped(started)
    assert not domain.isActive()
    assert domain.state()[0] == libvirt.VIR_DOMAIN_SHUTOFF
    assert sum(e[1] == libvirt.VIR_DOMAIN_EVENT_STOPPED for e in events) == started
    assert (descriptors(), qemus()) == before
    domain.create()
    domain.destroy()


def _kill_soon(delay: float, spare: set[int]) -> None:
    time.sleep(delay)
    for pid in qemus() - spare:
        os.kill(pid, signal.SIGKILL)


def _only_refused(call: Callable[[], object]) -> None:
    """CALL, which may find that the machine is gone, and nothing else."""
    try:
        call()
    except libvirt.libvirtError as error:
        if error.get_error_code() not in REFUSALS or error.__cause__ is not None:
            raise


def test_a_hanging_qemu_fails_by_deadline_and_is_destroyed(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    told = Told(connection)
    before = qemus()
    domain = connection.createXML(xml(), PAUSED)
    monkeypatch.setattr(monitor, "COMMAND_TIMEOUT_S", SHORT_S)
    monkeypatch.setattr(job, "JOB_TIMEOUT_S", SHORT_S / 2)
    (pid,) = qemus() - before
    os.kill(pid, signal.SIGSTOP)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(domain.resume) for _ in range(2)]
        errors = [str(call.exception()) for call in calls]
    assert sorted(errors) == [
        "Timed out during operation: cannot acquire state change lock (held by 'resume')",
        "Timed out during operation: no reply to QMP command 'cont' within 1 s; "
        'last seen: > {"execute": "cont", "id": "' + errors_id(errors) + '"}',
    ]
    assert domain.info()[0] == libvirt.VIR_DOMAIN_PAUSED
    domain.destroy()
    told.stopped()
    assert qemus() == before


def errors_id(errors: list[str]) -> str:
    return next(error for error in errors if '"id": "' in error).split('"id": "')[1].split('"')[0]


def test_a_late_answer_is_nobodys(connect: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = connect()
    before = qemus()
    domain = connection.createXML(xml(), PAUSED)
    monkeypatch.setattr(monitor, "COMMAND_TIMEOUT_S", SHORT_S / 4)
    (pid,) = qemus() - before
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(libvirt.libvirtError, match="no reply to QMP command 'system_reset'"):
        domain.reset()
    os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    domain.resume()
    assert domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING


def test_destroying_what_is_being_started(connect: Open) -> None:
    connection = connect()
    before = qemus()
    for seed in range(12):
        chance = random.Random(seed)
        starting = threading.Thread(target=_only_refused, args=(lambda: connection.createXML(xml()),))
        starting.start()
        time.sleep(chance.uniform(0, 0.06))
        _only_refused(lambda: connection.lookupByName("a").destroy())
        starting.join()
        for domain in connection.listAllDomains():
            domain.destroy()
    assert qemus() == before
