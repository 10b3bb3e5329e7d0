"""docs/threads.md on real machines: signals, threads, asyncio, and a loop thread that dies."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.loop import LoopThread
from tests.live.conftest import PAUSED, Open, uri, xml

#: Nothing here takes that long.
DEADLINE_S = 60

SERIAL = "<serial type='pty'/>"


class Left(BaseException):
    """What a signal's handler raises."""


def leave(_number: int, _frame: object) -> None:
    raise Left


class Begun:
    """Tells when the main thread has given the loop something, and has only to wait."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._begun, begin = threading.Event(), LoopThread.begin

        def tell(*arguments: Any) -> None:
            begin(*arguments)
            self._begun.set()

        self._arm = lambda: monkeypatch.setattr(LoopThread, "begin", tell)

    def then(self, do: Callable[[], object]) -> threading.Thread:
        """From the next call on; in another thread."""

        def wait() -> None:
            assert self._begun.wait(DEADLINE_S)
            do()

        self._arm()
        thread = threading.Thread(target=wait)
        thread.start()
        return thread


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Begun:
    return Begun(monkeypatch)


def receiving(stream: libvirt.virStream) -> bytes | int:
    """Wait for what never comes: the guest has no firmware that speaks, and does not run."""
    return stream.recv(1)


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_call_that_waits_for_ever_and_the_connection_lives_on(
    connect: Open, number: signal.Signals, begun: Begun
) -> None:
    connection = connect()
    stream = connection.newStream()
    domain = connection.createXML(xml(devices=SERIAL), PAUSED)
    domain.openConsole(None, stream)
    before = signal.signal(number, leave)
    other = begun.then(lambda: signal.pthread_kill(threading.main_thread().ident or 0, number))
    try:
        with pytest.raises(Left):
            receiving(stream)
    finally:
        signal.signal(number, before)
    other.join()
    assert domain.isActive()
    stream.abort()
    domain.destroy()


def test_the_end_of_a_connection_frees_its_consoles(connect: Open) -> None:
    first, second = connect(), connect()
    stream = first.newStream()
    first.createXML(xml(devices=SERIAL), PAUSED).openConsole(None, stream)
    first.close()
    again = second.newStream()
    second.lookupByName("a").openConsole(None, again)
    again.abort()


def test_a_long_call_lets_other_threads_work_and_call(connect: Open, begun: Begun) -> None:
    """One thread waits for a console; another makes a thousand calls before it lets that one go."""
    connection = connect()
    stream = connection.newStream()
    connection.createXML(xml(devices=SERIAL), PAUSED).openConsole(None, stream)
    counted: list[int] = []

    def count() -> None:
        counted.extend(connection.numOfDomains() for _ in range(1000))
        stream.abort()

    other = begun.then(count)
    with pytest.raises(libvirt.libvirtError, match="stream is not open"):
        receiving(stream)
    other.join()
    assert counted == [1] * 1000


def test_an_asyncio_application(connect: Open) -> None:
    """Its loop turns while VMs start and end in threads."""
    connection = connect()

    async def life(name: str) -> list[int]:
        domain = await asyncio.to_thread(connection.createXML, xml(name), PAUSED)
        state = await asyncio.to_thread(domain.state)
        await asyncio.to_thread(domain.destroy)
        return state

    async def main() -> tuple[list[list[int]], int]:
        turns, lives = 0, asyncio.gather(*(life(f"vm{number}") for number in range(4)))
        while not lives.done():
            turns += 1
            await asyncio.sleep(0)
        return lives.result(), turns

    states, turns = asyncio.run(main())
    assert states == [[libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]] * 4
    assert turns > 4


DYING = """
import os, signal, sys, threading
from pytest_embedvm import libvirt
from pytest_embedvm.loop import loop_thread
threading.excepthook = lambda _: None

def die():
    raise SystemExit("on purpose")

connection = libvirt.open(sys.argv[1])
connection.defineXML(sys.argv[2]).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
keeper = libvirt.open(sys.argv[1], keep_running=True)
keeper.createXML(sys.argv[3], libvirt.VIR_DOMAIN_START_PAUSED)
print("up", flush=True)
sys.stdin.readline()
dead = loop_thread()
dead.loop.call_soon_threadsafe(die)
dead._thread.join()
try:
    connection.listAllDomains()
except libvirt.libvirtError as error:
    assert error.get_error_domain() == libvirt.VIR_FROM_EVENT, error
    assert "has ended: Traceback" in str(error), error
    assert "in die" in str(error), error
again = libvirt.open(sys.argv[1])
print(*sorted(domain.name() for domain in again.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)), flush=True)
again.lookupByName("a").createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
again.lookupByName("kept").destroy()
sys.stdin.readline()
again.close()
print("closed", flush=True)
"""


def test_a_loop_thread_that_dies_takes_along_what_is_not_kept_and_the_root_can_be_opened_anew(tmp_path: Path) -> None:
    words = [sys.executable, "-c", DYING, uri(tmp_path / "root"), xml(), xml("kept")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as application:
        assert application.stdin
        assert application.stdout
        assert application.stdout.readline() == "up\n"
        machine = os.pidfd_open(int((tmp_path / "root/run/qemu/a.pid").read_text()))
        say = _say(application)
        assert say("die") == "kept\n"
        assert select.select([machine], [], [], DEADLINE_S)[0], "QEMU outlives the thread that spawned it"
        os.close(machine)
        assert say("close") == "closed\n"
        assert application.wait(DEADLINE_S) == 0


def _say(application: subprocess.Popen[str]) -> Callable[[str], str]:
    def say(word: str) -> str:
        if application.stdin is None or application.stdout is None:
            raise TypeError
        print(word, file=application.stdin, flush=True)
        return application.stdout.readline()

    return say
