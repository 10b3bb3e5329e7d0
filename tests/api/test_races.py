"""What overlaps: closing with calls and callbacks, deregistering with delivery, interrupts with anything."""

from __future__ import annotations

import gc
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_embedvm import libvirt
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


def test_close_does_not_wait_for_a_callback_and_no_other_follows(drivers: list[FakeDriver]) -> None:
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
