"""loop: one thread, proved to run, which is never waited for in vain: not when it is stuck, not when it is dead."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from pytest_embedvm import loop
from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.errors import InternalError, OperationInvalid
from pytest_embedvm.loop import LoopDied, LoopStuck, LoopThread, loop_thread

#: Nothing here takes that long.
DEADLINE_S = 30


async def thread_name() -> str:
    return threading.current_thread().name


def test_coroutines_run_on_the_loop_thread() -> None:
    assert loop_thread().run(thread_name()) == "embedvm-loop"


def test_there_is_one_thread() -> None:
    assert loop_thread() is loop_thread()
    assert [t.name for t in threading.enumerate()].count("embedvm-loop") == 1


def test_an_exception_comes_back() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        loop_thread().run(fail())


def test_a_call_from_the_loop_thread_raises_instead_of_waiting_for_itself() -> None:
    async def call_again() -> str:
        return loop_thread().run(thread_name())

    with pytest.raises(OperationInvalid, match="called from the driver's own loop thread"):
        loop_thread().run(call_again())


class Waiting:
    """A coroutine that says when it waits, and when it has undone what it began."""

    def __init__(self) -> None:
        self.begun, self.undone = threading.Event(), threading.Event()

    async def wait(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.undone.set()


def signal_once(waiting: Waiting, number: signal.Signals) -> threading.Thread:
    """Send the main thread a signal when WAITING waits."""

    def send() -> None:
        assert waiting.begun.wait(DEADLINE_S)
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def leave(_number: int, _frame: object) -> None:
    raise Left


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGALRM])
def test_a_signal_whose_handler_raises_ends_the_wait_and_cancels_what_it_waited_for(number: signal.Signals) -> None:
    waiting = Waiting()
    before = signal.signal(number, leave)
    try:
        sender = signal_once(waiting, number)
        with pytest.raises(Left):
            loop_thread().run(waiting.wait())
    finally:
        signal.signal(number, before)
    sender.join()
    assert waiting.undone.is_set()  # what it had begun was undone before the exception was passed on


def test_ctrl_c_is_a_keyboard_interrupt() -> None:
    waiting = Waiting()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sender = signal_once(waiting, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            loop_thread().run(waiting.wait())
    finally:
        signal.signal(signal.SIGINT, before)
    sender.join()
    assert waiting.undone.is_set()


def test_a_signal_whose_handler_returns_changes_nothing_and_may_call() -> None:
    waiting, answers = Waiting(), []
    thread = loop_thread()
    done = asyncio.run_coroutine_threadsafe(_event(), thread.loop).result(DEADLINE_S)

    def call(_number: int, _frame: object) -> None:
        answers.append(thread.run(thread_name()))
        thread.loop.call_soon_threadsafe(done.set)

    async def until_done() -> str:
        waiting.begun.set()
        await done.wait()
        return "as if nothing had been"

    before = signal.signal(signal.SIGALRM, call)
    try:
        sender = signal_once(waiting, signal.SIGALRM)
        assert thread.run(until_done()) == "as if nothing had been"
    finally:
        signal.signal(signal.SIGALRM, before)
    sender.join()
    assert answers == ["embedvm-loop"]


async def _event() -> asyncio.Event:
    return asyncio.Event()


def test_an_interrupt_before_the_coroutine_began_leaves_it_unbegun(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise Left

    waiting, thread = Waiting(), loop_thread()
    others = set(thread._calls)  # a VM that several tests share has its console read
    with monkeypatch.context() as patched:
        patched.setattr(LoopThread, "begin", interrupted)
        with pytest.raises(Left):
            thread.run(waiting.wait())
    assert not waiting.begun.is_set()
    assert thread._calls <= others


def test_a_coroutine_s_own_timeout_is_no_sign_of_anything() -> None:
    async def late() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        loop_thread().run(late())


def test_an_interrupt_that_follows_an_interrupt_leaves_at_once() -> None:
    """The coroutine does not let itself be cancelled; the second Ctrl-C does not wait for it."""
    begun, stubborn, ended = threading.Event(), threading.Event(), threading.Event()

    async def never() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stubborn.set()
            await asyncio.to_thread(ended.wait, DEADLINE_S)

    def send() -> None:
        for moment in (begun, stubborn):
            assert moment.wait(DEADLINE_S)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, leave)
    sender = threading.Thread(target=send)
    try:
        sender.start()
        with pytest.raises(Left):
            loop_thread().run(never())
        assert not ended.is_set()
    finally:
        ended.set()
        signal.signal(signal.SIGALRM, before)
    sender.join()


def test_others_run_while_one_waits() -> None:
    """The wait ends only when another thread has counted: who held the interpreter's lock would never see the end."""
    counted = threading.Event()

    def count() -> None:
        for number in range(100_000):
            if number == 99_999:
                counted.set()

    async def until_counted() -> bool:
        return await asyncio.to_thread(counted.wait, DEADLINE_S)

    counter = threading.Thread(target=count)
    counter.start()
    assert loop_thread().run(until_counted())
    counter.join()


def test_many_threads_at_once() -> None:
    thread, together = loop_thread(), threading.Barrier(32)
    others = set(thread._calls)

    async def add(one: int) -> int:
        await asyncio.sleep(0)
        return one + 1

    def play(_number: int) -> int:
        together.wait(DEADLINE_S)
        value = 0
        for _ in range(50):
            value = thread.run(add(value))
        return value

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(play, range(32))) == [50] * 32
    assert thread._calls <= others


class Left(BaseException):
    """What a signal's handler raises."""


# A loop that does not turn


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "HEARTBEAT_S", 0.01)
    monkeypatch.setattr(loop, "ANSWER_ROUND_S", 0.02)


@pytest.fixture
def own() -> Iterator[LoopThread]:
    """A loop thread that a test may break."""
    thread = LoopThread("embedvm-loop-of-a-test")
    yield thread
    if thread.alive:
        thread.loop.call_soon_threadsafe(thread.loop.stop)
    thread._thread.join(DEADLINE_S)


def block(thread: LoopThread) -> threading.Event:
    """Stick the loop until the event that is returned is set."""
    release, stuck = threading.Event(), threading.Event()

    def stand_still() -> None:
        stuck.set()
        release.wait(DEADLINE_S)

    thread.loop.call_soon_threadsafe(stand_still)
    assert stuck.wait(DEADLINE_S)
    return release


@pytest.mark.usefixtures("impatient")
def test_a_stuck_loop_is_an_error_with_its_stack(own: LoopThread) -> None:
    begun: list[bool] = []

    async def begin() -> None:
        begun.append(True)

    release = block(own)
    with pytest.raises(LoopStuck) as caught:
        own.run(begin())
    assert (caught.value.code, caught.value.origin) == (ErrorNumber.INTERNAL_ERROR, ErrorDomain.EVENT)
    assert "gave no sign of life for 0.2 s; it is in" in caught.value.message
    assert "release.wait(DEADLINE_S)" in caught.value.message
    with pytest.raises(LoopStuck):
        own.require_turning()
    release.set()
    own.require_turning()
    assert begun == []  # what its caller gave up does not happen behind its back
    assert own.run(thread_name()) == own._thread.name
    assert not own._calls


@pytest.mark.usefixtures("impatient")
def test_a_loop_that_sticks_while_a_call_waits(own: LoopThread) -> None:
    waiting, release = Waiting(), threading.Event()

    def stick() -> None:
        assert waiting.begun.wait(DEADLINE_S)
        own.loop.call_soon_threadsafe(release.wait, DEADLINE_S)

    other = threading.Thread(target=stick)
    other.start()
    with pytest.raises(LoopStuck, match="no sign of life"):
        own.run(waiting.wait())
    release.set()
    other.join()
    assert waiting.undone.wait(DEADLINE_S)


@pytest.mark.usefixtures("impatient")
def test_a_long_call_is_not_stuck_as_long_as_the_loop_turns(own: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends after a hundred signs of life."""
    signs, enough = itertools.count(1), threading.Event()
    turning = LoopThread.require_turning

    def counted(thread: LoopThread) -> None:
        turning(thread)
        if next(signs) == 100:
            enough.set()

    async def long() -> bool:
        return await asyncio.to_thread(enough.wait, DEADLINE_S)

    monkeypatch.setattr(LoopThread, "require_turning", counted)
    assert own.run(long())


def test_a_warm_call_asks_for_no_sign_of_life(own: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoopThread, "require_turning", None)
    assert own.run(thread_name())


@pytest.mark.parametrize("number", [SystemExit, KeyboardInterrupt])
def test_a_loop_that_dies_is_noticed_at_once(
    own: LoopThread, number: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deadlines are longer than the test may take: nobody waits for one."""
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    monkeypatch.setattr(loop, "HEARTBEAT_S", 10 * DEADLINE_S)
    waiting, told = [Waiting() for _ in range(8)], queue.SimpleQueue[InternalError]()

    def run(one: Waiting) -> None:
        try:
            own.run(one.wait())
        except LoopDied as error:
            told.put(error)

    callers = [threading.Thread(target=run, args=(one,)) for one in waiting]
    for caller, one in zip(callers, waiting, strict=True):
        caller.start()
        assert one.begun.wait(DEADLINE_S)

    def die() -> None:
        raise number("on purpose")

    own.loop.call_soon_threadsafe(die)
    errors = [told.get(timeout=DEADLINE_S) for _ in callers]
    for thread in (*callers, own._thread):
        thread.join(DEADLINE_S)
    assert {(error.code, error.origin) for error in errors} == {(ErrorNumber.INTERNAL_ERROR, ErrorDomain.EVENT)}
    for error in errors:
        assert "the driver's loop thread has ended: Traceback" in error.message
        assert "in die" in error.message
        assert f"{number.__name__}: on purpose" in error.message


def test_a_dead_loop_takes_no_more(own: LoopThread) -> None:
    own.loop.call_soon_threadsafe(own.loop.stop)
    own._thread.join(DEADLINE_S)
    assert not own.alive
    for attempt in (lambda: own.run(thread_name()), own.require_turning):
        with pytest.raises(LoopDied, match="has ended: its loop was stopped"):
            attempt()
    own.leave(thread_name())  # nobody waits, so nobody is told


def test_another_thread_is_started_when_the_first_has_died(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_current", None)
    first = loop_thread()
    first.loop.call_soon_threadsafe(first.loop.stop)
    first._thread.join(DEADLINE_S)
    second = loop_thread()
    assert second is not first
    assert second.run(thread_name()) == "embedvm-loop"
    second.loop.call_soon_threadsafe(second.loop.stop)
    second._thread.join(DEADLINE_S)


@pytest.mark.usefixtures("impatient")
def test_a_loop_that_sticks_is_noticed_when_it_is_asked_for(own: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_current", own)
    assert loop_thread() is own
    release = block(own)
    with pytest.raises(LoopStuck):
        loop_thread()
    release.set()
    assert loop_thread() is own


def test_asking_for_it_on_the_loop_thread_is_an_error(own: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_current", own)

    async def ask() -> None:
        loop_thread()

    with pytest.raises(OperationInvalid, match="called from the driver's own loop thread"):
        own.run(ask())


def test_what_nobody_waits_for_runs(own: LoopThread) -> None:
    done = threading.Event()

    async def work() -> None:
        done.set()
        raise KeyError("lost")

    own.leave(work())
    assert done.wait(DEADLINE_S)
    own.require_turning()


def test_what_no_caller_hears_of_is_logged(own: LoopThread, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise KeyError("mine")

    own.loop.call_soon_threadsafe(fail)
    own.require_turning()
    (record,) = caplog.records
    assert record.getMessage().startswith("[host] Exception in callback")
    assert "KeyError: 'mine'" in caplog.text


LATE = """
import os
import pytest_embedvm.loop as loop

class Late:
    def __init__(self):
        self.thread, self.call = loop.loop_thread(), call
    def __del__(self, say=os.write):
        try:
            self.thread.run(self.call())
        except BaseException as error:
            say(1, f"{type(error).__name__} {error}".encode())

async def call():
    pass

late = Late()
"""


def test_a_call_while_the_interpreter_ends_is_an_error_and_no_hang() -> None:
    result = subprocess.run(
        [sys.executable, "-c", LATE], check=False, capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("OperationInvalid Requested operation is not valid: the interpreter is ending")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_and_may_start_its_own() -> None:
    parents: LoopThread = loop_thread()
    parents.run(thread_name())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            parents.run(thread_name())
        except OperationInvalid as error:
            said = error.detail
        own = loop_thread().run(thread_name())
        os.write(writer, f"{own}|{said}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        own, said = pipe.read().split("|")
    assert os.waitpid(pid, 0)[1] == 0
    assert own == "embedvm-loop"
    assert f"belongs to process {os.getpid()}, this is process {pid}" in said
