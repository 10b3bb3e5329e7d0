"""What overlaps: closing with calls and callbacks, deregistering with delivery, interrupts with anything."""

from __future__ import annotations

import asyncio
import gc
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api import _object
from pytest_embedvm.api._object import Session
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.loop import LoopThread, loop_thread
from tests.api.conftest import URI
from tests.api.test_connect import failure
from tests.api.test_events import DEADLINE_S, LIFECYCLE, STARTED, SUSPENDED, Calls
from tests.fakes.driver import FakeDriver


class Left(BaseException):
    """What a signal's handler raises."""


def interrupt_when(moment: threading.Event, then: Callable[[], object]) -> threading.Thread:
    """At MOMENT, signal the main thread; THEN do something more."""

    def interrupt() -> None:
        assert moment.wait(DEADLINE_S)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)
        then()

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


@pytest.fixture
def _alarm_raises() -> Any:
    def leave(_number: int, _frame: object) -> None:
        raise Left

    before = signal.signal(signal.SIGALRM, leave)
    yield
    signal.signal(signal.SIGALRM, before)


class Slow:
    """A callback that takes until it is let go."""

    def __init__(self) -> None:
        self.entered, self.go, self.left = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, *_: object) -> None:
        self.entered.set()
        self.go.wait(DEADLINE_S)
        self.left.set()


# Callbacks


def test_close_waits_no_longer_than_that_for_a_callback_and_no_other_follows(
    drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_object, "DRAIN_TIMEOUT_S", 0.01)
    slow, late, conn = Slow(), Calls(), libvirt.open(URI)
    for callback in (slow, late):
        conn.domainEventRegisterAny(None, LIFECYCLE, callback, None)
    conn.createXML("a").suspend()
    assert slow.entered.wait(DEADLINE_S)
    conn.close()
    assert not slow.left.is_set()
    slow.go.set()
    assert slow.left.wait(DEADLINE_S)
    after_all_else(drivers)
    assert late.empty()


def after_all_else(drivers: list[FakeDriver]) -> None:
    """Return when callbacks are idle: another root's event has come through the same thread, or a later one."""
    calls, other = Calls(), libvirt.open(URI)
    other.domainEventRegister(calls, None)
    other.createXML("z")
    calls.next()
    other.close()


def test_a_callback_may_close_its_connection(drivers: list[FakeDriver]) -> None:
    calls, conn = Calls(), libvirt.open(URI)

    def close(*_: object) -> None:
        calls(conn.close())

    conn.domainEventRegisterAny(None, LIFECYCLE, close, None)
    conn.createXML("a")
    assert calls.next() == (0,)
    assert failure(conn.numOfDomains)[0] == libvirt.VIR_ERR_INVALID_CONN
    assert drivers[0].closings == 1


def test_a_callback_that_was_deregistered_during_delivery_is_not_called(conn: libvirt.virConnect) -> None:
    slow, late, fence = Slow(), Calls(), Calls()
    conn.domainEventRegisterAny(None, LIFECYCLE, slow, None)
    number = conn.domainEventRegisterAny(None, LIFECYCLE, late, None)
    conn.domainEventRegisterAny(None, LIFECYCLE, fence, None)
    conn.createXML("a")
    assert slow.entered.wait(DEADLINE_S)
    conn.domainEventDeregisterAny(number)
    slow.go.set()
    fence.next()
    assert late.empty()


def test_a_callback_may_register_another_which_hears_what_follows(conn: libvirt.virConnect) -> None:
    calls = Calls()

    def register(*_: object) -> None:
        conn.domainEventDeregisterAny(number)
        conn.domainEventRegister(calls, None)
        registered.set()

    registered = threading.Event()
    number = conn.domainEventRegisterAny(None, LIFECYCLE, register, None)
    domain = conn.createXML("a")
    assert registered.wait(DEADLINE_S)
    domain.suspend()
    assert calls.next()[2:4] == SUSPENDED


def test_callbacks_run_on_a_thread_that_is_neither_the_loop_s_nor_the_caller_s(conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(lambda *_: calls(threading.current_thread().name), None)
    conn.createXML("a").suspend()
    assert [calls.next(), calls.next()] == [("embedvm-events",)] * 2


@pytest.mark.parametrize("raised", [SystemExit, KeyboardInterrupt, pytest.fail.Exception])
def test_a_callback_that_raises_no_exception_does_not_end_the_delivery(
    conn: libvirt.virConnect, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    calls = Calls()

    def fail(*_: object) -> None:
        raise raised("mine")

    conn.domainEventRegisterAny(None, LIFECYCLE, fail, None)
    conn.domainEventRegisterAny(None, LIFECYCLE, calls, None)
    conn.createXML("a").suspend()
    assert [calls.next()[2:4], calls.next()[2:4]] == [STARTED, SUSPENDED]
    assert "mine" in caplog.text


def test_registering_one_callback_from_many_threads_registers_it_once(conn: libvirt.virConnect) -> None:
    calls, fence = Calls(), Calls()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: conn.domainEventRegister(calls, number), range(64)))
    assert len(conn._session.callbacks) == 1
    conn.domainEventRegisterAny(None, LIFECYCLE, fence, None)
    conn.createXML("a")
    fence.next()
    calls.next()
    assert calls.empty()


# Closing


def test_a_call_that_is_on_its_way_when_another_thread_closes(
    conn: libvirt.virConnect, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, check = conn.createXML("a"), Session.check

    def close_then(session: Session, *arguments: Any, **keywords: Any) -> None:
        check(session, *arguments, **keywords)
        monkeypatch.undo()
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(conn.close).result(DEADLINE_S) == 0

    monkeypatch.setattr(Session, "check", close_then)
    code, origin, message = failure(domain.isActive)
    assert (code, origin) == (libvirt.VIR_ERR_INVALID_CONN, libvirt.VIR_FROM_DOMAIN)
    assert message == "invalid connection pointer in virDomainIsActive"


@pytest.mark.usefixtures("_alarm_raises")
def test_an_interrupted_close_is_carried_to_its_end(drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    conn, go, loop = libvirt.open(URI), threading.Event(), loop_thread()
    begun, ended = threading.Event(), []

    async def close(_driver: FakeDriver, _client: object) -> None:
        begun.set()
        await loop.loop.run_in_executor(None, go.wait, DEADLINE_S)
        ended.append("all of it")

    monkeypatch.setattr(FakeDriver, "close", close)
    other = interrupt_when(begun, lambda: (loop.require_turning(), go.set()))
    with pytest.raises(Left):
        conn.close()
    other.join()
    assert ended == ["all of it"]
    assert failure(conn.close)[0] == libvirt.VIR_ERR_INVALID_CONN


def test_an_open_that_is_interrupted_when_it_is_done_leaves_no_connection(
    drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = LoopThread.run

    def interrupted(loop: LoopThread, coroutine: Any) -> None:
        run(loop, coroutine)
        raise Left

    with monkeypatch.context() as patched:
        patched.setattr(LoopThread, "run", interrupted)
        with pytest.raises(Left):
            libvirt.open(URI)
    gc.collect()
    loop_thread().require_turning()
    assert [driver.closings for driver in drivers] == [1]


def test_the_end_of_a_connection_that_nobody_holds_may_fail_and_is_logged(
    drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def close(_driver: FakeDriver, _client: object) -> None:
        raise SystemFailure("mine")

    monkeypatch.setattr(FakeDriver, "close", close)
    libvirt.open(URI)
    gc.collect()
    loop_thread().require_turning()
    (record,) = caplog.records
    assert record.getMessage().endswith("a connection that nobody holds did not end well: mine")


# Streams


@pytest.fixture
def stream(conn: libvirt.virConnect) -> libvirt.virStream:
    """A console that sends back what it is sent."""
    opened = conn.newStream()
    conn.createXML("a").openConsole(None, opened)
    return opened


def receive(stream: libvirt.virStream, size: int) -> object:
    try:
        return stream.recv(size)
    except libvirt.libvirtError as error:
        return error.get_error_code(), error.get_error_message()


def test_two_that_receive_share_what_comes_and_nothing_is_doubled(stream: libvirt.virStream) -> None:
    with ThreadPoolExecutor(8) as pool:
        received = [pool.submit(receive, stream, 2) for _ in range(8)]
        stream.send(b"0123456789abcdef")
        pieces = [one.result(DEADLINE_S) for one in received]
    assert sorted(map(str, pieces)) == [str(b"0123456789abcdef"[at : at + 2]) for at in range(0, 16, 2)]


@pytest.mark.parametrize("end", ["close", "abort"])
def test_who_receives_is_told_when_another_ends_the_stream(
    stream: libvirt.virStream, driver: FakeDriver, end: str
) -> None:
    reading, read = threading.Event(), driver.all[0].links[0].read

    async def tell(size: int) -> bytes:
        reading.set()
        return await read(size)

    driver.all[0].links[0].read = tell  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as pool:
        received = [pool.submit(receive, stream, 1) for _ in range(2)]
        assert reading.wait(DEADLINE_S)
        loop_thread().require_turning()
        (stream.connect().close if end == "close" else stream.abort)()
        answers = [one.result(DEADLINE_S) for one in received]
    not_open = (libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: stream is not open")
    closed = (libvirt.VIR_ERR_INVALID_CONN, "invalid connection pointer in virStreamRecv")
    never = (
        libvirt.VIR_ERR_NO_SUPPORT,
        "this function is not supported by the connection driver: virStreamRecv",
    )
    assert not_open in answers
    assert set(answers) <= {not_open, closed, never}  # the second may have come too late
    assert driver.all[0].links[0].closed


def test_a_console_that_opens_while_the_connection_closes_is_closed(
    conn: libvirt.virConnect, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain, stream = conn.createXML("a"), conn.newStream()
    machine, opening, go = driver.all[0], threading.Event(), threading.Event()
    open_console = machine.open_console

    async def slow(*arguments: Any, **more: Any) -> object:
        link = await open_console(*arguments, **more)
        opening.set()
        await until(go)
        return link

    monkeypatch.setattr(machine, "open_console", slow)
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(failure, domain.openConsole, None, stream)
        assert opening.wait(DEADLINE_S)
        conn.close()
        go.set()
        code, _, message = opened.result(DEADLINE_S)
    assert (code, message) == (libvirt.VIR_ERR_INVALID_CONN, "invalid connection pointer in virDomainOpenConsole")
    assert machine.links[0].closed


async def until(go: threading.Event) -> None:
    await asyncio.get_running_loop().run_in_executor(None, go.wait, DEADLINE_S)
