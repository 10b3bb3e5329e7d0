"""The loop thread: everything below `api/` runs on it, and on it only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, Final, Generic, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InternalError, OperationInvalid

T = TypeVar("T")

START_TIMEOUT_S: Final = 10.0
#: How long a call that was interrupted may take to undo what it had begun.
UNWIND_TIMEOUT_S: Final = 10.0


class LoopThread:
    """One asyncio loop on one long-lived daemon thread.

    QEMU is spawned from this thread: the parent-death signal belongs to the thread that spawns,
    so it must live as long as the process does.
    """

    def __init__(self, name: str = "embedvm-loop") -> None:
        self._pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()
        self._prove()

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def _prove(self) -> None:
        """Return once the loop has run a callback of ours."""
        ready = threading.Event()
        self.loop.call_soon_threadsafe(ready.set)
        if not ready.wait(START_TIMEOUT_S):
            raise InternalError(
                f"the driver's loop thread did not run within {START_TIMEOUT_S:g} s", origin=ErrorDomain.EVENT
            )

    @property
    def alive(self) -> bool:
        """Whether this process is the one that started the thread, and the thread runs."""
        return self._pid == os.getpid() and self._thread.is_alive()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run COROUTINE on the loop thread and wait for its result.

        An interrupt of the waiting thread (KeyboardInterrupt, a test's timeout) cancels the coroutine,
        and leaves once that has undone what it had begun.

        :raise OperationInvalid: when called from the loop thread (it would wait for itself), or in
            a forked child, which has no loop thread.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise OperationInvalid(
                "called from the driver's own loop thread; call it from another thread", origin=ErrorDomain.EVENT
            )
        if not self.alive:
            coroutine.close()
            raise OperationInvalid(
                f"the driver's loop thread belongs to process {self._pid}, this is process {os.getpid()}: "
                "a forked child must open a root of its own",
                origin=ErrorDomain.EVENT,
            )
        call = _Call(self.loop, coroutine)
        try:
            return call.future.result()
        except BaseException:
            call.cancel(UNWIND_TIMEOUT_S)
            raise


class _Call(Generic[T]):
    """A coroutine on the loop, as another thread sees it: `future` is done when the coroutine is, never before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> None:
        self.future: concurrent.futures.Future[T] = concurrent.futures.Future()
        self._ended = threading.Event()
        self._loop = loop
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._coroutine)
        self._task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[T]) -> None:
        self._task = None
        if task.cancelled():
            self.future.cancel()
        elif (error := task.exception()) is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(task.result())
        self._ended.set()

    def cancel(self, timeout: float) -> None:
        """Cancel the coroutine if it runs, and wait up to TIMEOUT seconds until it has ended."""
        if not self.future.done():
            self._loop.call_soon_threadsafe(self._cancel)
            self._ended.wait(timeout)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


_lock = threading.Lock()
_current: LoopThread | None = None


def loop_thread() -> LoopThread:
    """The process's loop thread; started at the first call, and anew in a forked child."""
    global _current
    with _lock:
        if _current is None or not _current.alive:
            _current = LoopThread()
        return _current


def _forget_in_child() -> None:
    """A child of fork has the lock and the object, and not the thread."""
    global _lock, _current
    _lock = threading.Lock()
    _current = None


os.register_at_fork(after_in_child=_forget_in_child)
