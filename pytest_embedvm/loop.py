"""The loop thread: everything below `api/` runs on it, and on it only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final, Generic, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InternalError, OperationInvalid
from pytest_embedvm.logs import HOST

T = TypeVar("T")

#: How long a caller waits before it asks for a sign of life. It goes on waiting as long as there is one.
HEARTBEAT_S: Final = 5.0
#: A sign of life may take so many rounds. Not one long one: where the whole process stood still (SIGSTOP, a suspended
#: host), the clock went on, and the loop deserves what is left.
ANSWER_ROUNDS: Final = 10
ANSWER_ROUND_S: Final = 1.0
#: How long a call that was interrupted may take to undo what it had begun.
UNWIND_TIMEOUT_S: Final = 10.0


class LoopDied(InternalError):
    """The loop thread has ended; the detail has the traceback of what ended it."""

    default_origin = ErrorDomain.EVENT


class LoopStuck(InternalError):
    """The loop thread runs nothing of what it is given; the detail has its stack."""

    default_origin = ErrorDomain.EVENT


class LoopThread:
    """One asyncio loop on one long-lived daemon thread, which runs when this has been made.

    QEMU is spawned from this thread: the parent-death signal belongs to the thread that spawns,
    so it must live as long as the process does.

    :raise LoopDied, LoopStuck: when it does not run.
    """

    def __init__(self, name: str = "embedvm-loop") -> None:
        self._pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.loop.set_exception_handler(_report)
        # Reentrant: a signal's handler, or a finalizer, may call while its thread is in here.
        self._lock = threading.RLock()
        self._calls: set[_Call[Any]] = set()
        self._death: str | None = None
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self.require_turning()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_forever()
        finally:
            self._die(traceback.format_exc() if sys.exc_info()[0] else "its loop was stopped")

    def _die(self, why: str) -> None:
        """Tell all that wait, at once; nobody begins to wait after that."""
        with self._lock:
            self._death = f"the driver's loop thread has ended: {why}"
            calls, self._calls = self._calls, set()
        for call in calls:
            call.fail(LoopDied(self._death))
        try:
            self._unwind()
        finally:
            self.loop.close()

    def _unwind(self) -> None:
        """Let what was under way undo what it had begun."""
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self.loop.run_until_complete(asyncio.wait(tasks, timeout=UNWIND_TIMEOUT_S))

    @property
    def alive(self) -> bool:
        """Whether this process is the one that started the thread, and the thread runs."""
        return self._pid == os.getpid() and self._death is None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run COROUTINE on the loop thread and wait for its result, as long as it takes.

        An interrupt of the waiting thread (KeyboardInterrupt, a test's timeout) cancels the coroutine,
        and leaves once that has undone what it had begun.

        :raise OperationInvalid: when called from the loop thread (it would wait for itself), or in
            a forked child, which has no loop thread, or while the interpreter is ending.
        :raise LoopDied: when the loop thread has ended, or ends meanwhile.
        :raise LoopStuck: when it gives no sign of life for 10 s.
        """
        call = _Call(self, coroutine)
        try:
            self._require_waitable()
            return call.result()
        except (LoopDied, LoopStuck):
            call.give_up(0)
            raise
        except BaseException:
            call.give_up(UNWIND_TIMEOUT_S)
            raise

    def leave(self, coroutine: Coroutine[Any, Any, object]) -> None:
        """Have COROUTINE run on the loop thread, and do not wait; from any thread. What it raises is lost.

        Nothing runs when the loop thread is gone.
        """
        with contextlib.suppress(LoopDied):
            _Call(self, coroutine).begin()

    def require_turning(self) -> None:
        """Return once the loop has run something of ours.

        :raise OperationInvalid: where `run` does.
        :raise LoopDied, LoopStuck: when it does not.
        """
        self._require_waitable()
        beat = _Call(self, _nothing())
        beat.begin()
        for _ in range(ANSWER_ROUNDS):
            if beat.wait(ANSWER_ROUND_S):
                return beat.future.result()
        beat.give_up(0)
        raise LoopStuck(
            f"the driver's loop thread gave no sign of life for {ANSWER_ROUNDS * ANSWER_ROUND_S:g} s; it is in\n"
            + self._stack()
        )

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)
        return "".join(traceback.format_stack(frame)) if frame else "no Python code"

    def _require_waitable(self) -> None:
        if self._pid != os.getpid():
            raise _invalid(
                f"the driver's loop thread belongs to process {self._pid}, this is process {os.getpid()}: "
                "a forked child must open a root of its own"
            )
        if threading.get_ident() == self._thread.ident:
            raise _invalid("called from the driver's own loop thread; call it from another thread")
        if sys.is_finalizing():
            raise _invalid("the interpreter is ending, and the driver's loop thread with it")

    def begin(self, call: _Call[Any], callback: Callable[[], object]) -> None:
        """Have the loop run CALLBACK, and CALL fail if the loop dies before it is done.

        :raise LoopDied: when the loop thread has ended.
        """
        with self._lock:
            self._calls.add(call)
            self.soon(callback)

    def soon(self, callback: Callable[[], object]) -> None:
        """Have the loop run CALLBACK.

        :raise LoopDied: when the loop thread has ended.
        """
        with self._lock:
            if self._death is not None:
                raise LoopDied(self._death)
            self.loop.call_soon_threadsafe(callback)

    def done(self, call: _Call[Any]) -> None:
        """CALL needs the loop no more."""
        self._calls.discard(call)


class _Call(Generic[T]):
    """A coroutine on the loop, as another thread sees it: `future` is done when the coroutine is, never before."""

    def __init__(self, thread: LoopThread, coroutine: Coroutine[Any, Any, T]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._thread = thread
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._begun = False
        self._given_up = False

    # On the caller's thread

    def begin(self) -> None:
        """Hand it to the loop."""
        self._begun = True
        try:
            self._thread.begin(self, self._start)
        except LoopDied as error:
            self.fail(error)
            raise

    def result(self) -> T:
        """Begin, and wait for the result."""
        self.begin()
        while not self.future.done():
            try:
                return self.future.result(HEARTBEAT_S)
            except TimeoutError:
                if not self.future.done():
                    self._thread.require_turning()
        return self.future.result()  # which may be a TimeoutError of its own

    def wait(self, timeout: float) -> bool:
        """Whether it was done within TIMEOUT seconds."""
        try:
            self.future.exception(timeout)
        except concurrent.futures.CancelledError:
            return True
        except TimeoutError:
            return False
        return True

    def give_up(self, timeout: float) -> None:
        """Have the coroutine cancelled, or never begin, and wait up to TIMEOUT seconds until it has ended."""
        self._given_up = True
        if not self._begun:
            self._coroutine.close()
        elif not self.future.done():
            try:
                self._thread.soon(self._cancel)
                self.wait(timeout)
            except LoopDied as error:
                self.fail(error)

    # On the loop thread, or when it is gone

    def _start(self) -> None:
        if not self._given_up:
            self._task = self._thread.loop.create_task(self._coroutine)
            self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        elif not self.future.done():  # it was given up before it started
            self._thread.done(self)
            self._coroutine.close()
            self.future.cancel()

    def _end(self, task: asyncio.Task[T]) -> None:
        self._task = None
        self._thread.done(self)
        if self.future.done():  # its loop has died, and it was only unwound
            return
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())

    def fail(self, error: LoopDied) -> None:
        """The loop will not end this any more, nor begin it."""
        self._given_up = True
        if self._task is None:
            self._coroutine.close()
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            self.future.set_exception(error)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of WORK, which nobody can interrupt: a cancellation is passed on when it has ended."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait((task,))
        raise


async def _nothing() -> None:
    """Show that the loop runs what it is given."""


def _invalid(sentence: str) -> OperationInvalid:
    return OperationInvalid(sentence, origin=ErrorDomain.EVENT)


def _report(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log what no caller hears of: a callback or a task of the driver's failed."""
    where = context.get("task") or context.get("future") or context.get("handle") or "no task"
    HOST.error("%s, in %r", context["message"], where, exc_info=context.get("exception"))


_lock = threading.RLock()  # as above
_current: LoopThread | None = None


def loop_thread() -> LoopThread:
    """The process's loop thread, proved to run; started at the first call, and anew if it died or in a forked child.

    :raise OperationInvalid: on the loop thread itself.
    :raise LoopDied, LoopStuck: when it does not run.
    """
    global _current
    with _lock:
        if _current is None or not _current.alive:
            _current = LoopThread()
            return _current
        thread = _current
    thread.require_turning()
    return thread


def _forget_in_child() -> None:
    """A child of fork has the lock and the object, and not the thread."""
    global _lock, _current
    _lock = threading.RLock()
    _current = None


os.register_at_fork(after_in_child=_forget_in_child)
