"""Clones made ahead: while a test runs, a thread makes the VM of the next one, warms it up and suspends it.

The same thread takes away what a test has left behind, so that the test need not wait for that either.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pytest_embedvm.driver.roots import index
from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.files import make_private_directory
from pytest_embedvm.inotify import Inotify
from pytest_embedvm.logs import HOST
from pytest_embedvm.plugin.slots import LOOK_S, Slots
from pytest_embedvm.plugin.spare import Keeper, Plan, Ready, Recipe, Spare

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")

#: A clone that is being made, for a test that wants it; it is made anew then.
TAKE_TIMEOUT_S: Final = 60.0
#: The thread, at the session's end: it may be in the middle of one.
CLOSE_TIMEOUT_S: Final = 60.0
#: What is done behind a test's back begins so much after the test: its first steps are not to wait for that.
QUIET_S: Final = 0.05
#: The same between two tests: until the second begins, or this is over.
BETWEEN_S: Final = 1.0


class Pool:
    """The clones that one process makes ahead, each in a directory of its own."""

    def __init__(self, folder: Path, slots: Slots, keeper: Keeper, *, size: int, may: Callable[[], bool]) -> None:
        """:param folder: where those directories are.
        :param size: how many clones are kept ready.
        :param may: whether there is memory for one more.
        """
        self._folder = folder
        self._slots = slots
        self._keeper = keeper
        self._size = size
        self._may = may
        self._pid = os.getpid()
        self._numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        #: What wakes the thread.
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        #: Guards what follows.
        self._lock = threading.Lock()
        self._plan: Plan | None = None
        self._wanted: Recipe | None = None
        self._spares: list[Spare] = []
        #: The keys of what could not be made once: the test that makes it itself will say why.
        self._failed: set[str] = set()
        self._chores: list[Callable[[], object]] = []
        #: Whether spares are to run, for a test begins soon.
        self._awake = False
        self._not_before = 0.0
        self._closing = False

    # On the thread of the tests

    def prepare(self, plan: Plan | None) -> None:
        """A test has begun: have ready what PLAN says that the next one wants, behind this call's back.

        Spares of other recipes are given up for it; where it wants nothing, they are kept.
        """
        if self._pid != os.getpid():
            return
        with self._lock:
            self._plan = plan if self._size else None
            self._awake = False
            self._not_before = time.monotonic() + QUIET_S
        if self._plan is not None or self._thread is not None:
            self._wake()

    def rouse(self) -> None:
        """A test is over: let those run that are ready, for the next one."""
        if self._spares and self._pid == os.getpid():
            with self._lock:
                self._awake = True
            self._wake()

    def take(self, recipe: Recipe | None) -> Ready | None:
        """A clone that RECIPE made; None if there is none. One that is being made is waited for.

        What was to be prepared until now is not wanted any more.
        """
        if self._pid != os.getpid():  # a forked child's copy, without the thread
            return None
        with self._lock:
            self._plan = self._wanted = None
            found = (spare for spare in self._spares if recipe and spare.key == recipe.key and not spare.unwanted)
            spare = next(found, None)
            if spare is None:
                return None
            self._spares.remove(spare)
        try:
            ready = self._receive(spare)
        except BaseException:
            self._leave_alone(spare)
            raise
        if ready is None:
            self._leave_alone(spare)
        return ready

    def _receive(self, spare: Spare) -> Ready | None:
        """What SPARE is, once it is; None when it could not be made, or roused, or takes too long."""
        ready = _result(spare.future)
        if ready is None:
            return None
        if spare.roused is None:
            spare.roused = Future()
            self._rouse(spare)
        _result(spare.roused)
        return ready if spare.roused.done() and spare.roused.exception() is None else None

    def _leave_alone(self, spare: Spare) -> None:
        with self._lock:
            spare.unwanted = True
            self._spares.append(spare)
        self._wake()

    def leave(self, chore: Callable[[], object]) -> None:
        """A test is over: have CHORE done behind this call's back, after those before it. What it raises is logged."""
        if self._pid != os.getpid():
            return
        if self._closing:
            _do(chore)
            return
        with self._lock:
            self._chores.append(chore)
            self._not_before = time.monotonic() + BETWEEN_S
        self._wake()

    def settle(self) -> None:
        """Return when all chores have been done.

        :raise OperationTimeout: when they take too long.
        """
        if self._thread is None or self._closing or self._pid != os.getpid():
            return
        done = threading.Event()
        with self._lock:
            self._chores.append(done.set)
            self._not_before = 0.0
        self._ring()
        if not done.wait(CLOSE_TIMEOUT_S):
            raise OperationTimeout(f"what tests have left was not taken away within {CLOSE_TIMEOUT_S:g} s")

    def close(self) -> None:
        """Do what is left to be done, end all spares, and the thread; a second call does nothing.

        :raise OperationTimeout: when that takes too long; they end with the process then.
        """
        if self._pid != os.getpid() or self._closing:
            return
        with self._lock:
            self._closing = True
            self._not_before = 0.0
        if self._thread is not None:
            self._ring()
            self._thread.join(CLOSE_TIMEOUT_S)
            if self._thread.is_alive():
                raise OperationTimeout(f"the clones made ahead did not end within {CLOSE_TIMEOUT_S:g} s")
        self._bell.close()
        self._rope.close()

    def _wake(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._main, name="embedvm-pool", daemon=True)
            self._thread.start()
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            self._rope.send(b"!")

    # On its own thread

    def _main(self) -> None:
        with self._watch() as watch:
            while True:
                work = self._work()
                if work is not None:
                    _do(work)
                elif self._closing:
                    return
                else:
                    self._sleep(watch)

    def _watch(self) -> contextlib.AbstractContextManager[Inotify | None]:
        try:
            return self._slots.watch()
        except OSError:  # the kernel has none left
            return contextlib.nullcontext()

    def _sleep(self, watch: Inotify | None) -> None:
        """Until somebody rings, somebody waits for a slot, or it is time for what has to wait."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if watch is not None:
            poll.register(watch, select.POLLIN)
        pauses = [self._not_before - time.monotonic()] if self._chores or self._plan else []
        if watch is None and self._spares:
            pauses.append(LOOK_S)
        poll.poll(max(0.0, min(pauses)) * 1000 + 1 if pauses else None)
        if watch is not None:
            watch.forget()
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def _work(self) -> Callable[[], object] | None:
        """What is to be done next: what cannot wait, what tests have left, what the next one wants."""
        with self._lock:
            urgent = self._surplus() or self._change_of_state()
            if urgent is not None or time.monotonic() < self._not_before:
                return urgent
            if self._chores:
                return self._chores.pop(0)
            if self._plan is not None and not self._closing:
                return partial(self._ask, self._plan)
            wanted = self._wanted
            if wanted is None or self._closing or len(self._spares) >= self._size or wanted.key in self._failed:
                return None
            spare = Spare(wanted.key)
            self._spares.append(spare)
        return partial(self._make, wanted, spare)

    def _surplus(self) -> Callable[[], object] | None:
        """End a spare that has to go: for its own sake, for another's, or for somebody who waits for its slot."""
        if not self._spares:
            return None
        wanted = self._wanted
        all_go = self._closing or self._slots.waiting()
        for spare in self._spares:
            if all_go or spare.unwanted or (wanted is not None and wanted.key != spare.key):
                self._spares.remove(spare)
                return partial(self._end, spare)
        return None

    def _change_of_state(self) -> Callable[[], object] | None:
        """Let a spare run, or suspend it."""
        for spare in self._spares:
            if self._awake and spare.roused is None:
                spare.roused = Future()
                return partial(self._rouse, spare)
            if not self._awake and spare.roused is not None:
                spare.roused = None
                return partial(self._suspend, spare)
        return None

    def _rouse(self, spare: Spare) -> None:
        with spare.changing:
            if spare.roused is not None:
                _settle(spare.roused, partial(self._keeper.rouse, spare.future.result().made))

    def _suspend(self, spare: Spare) -> None:
        with spare.changing:
            if spare.roused is None:  # else it has just been taken
                self._keeper.suspend(spare.future.result().made)

    def _end(self, spare: Spare) -> None:
        if spare.future.exception() is None:
            ready = spare.future.result()
            try:
                self._keeper.dispose(ready.made)
            finally:
                ready.slot.release()

    def _ask(self, plan: Plan) -> None:
        recipe = None
        try:
            recipe = plan()
        finally:
            with self._lock:
                if self._plan is plan:
                    self._plan = None
                    self._wanted = recipe

    def _make(self, recipe: Recipe, spare: Spare) -> None:
        error = _settle(spare.future, partial(self._made, recipe))
        if error is not None:
            with self._lock:
                self._wanted = None
                self._spares = [other for other in self._spares if other is not spare]
                if not isinstance(error, NoRoom):
                    # The test that makes it itself will say it, if it is still so.
                    self._failed.add(recipe.key)
                    HOST.warning("no VM could be made ahead of its test", exc_info=error)

    def _made(self, recipe: Recipe) -> Ready:
        with contextlib.ExitStack() as undo:
            slot = self._slots.take_now(owner="a VM made ahead", spare=True) if self._may() else None
            if slot is None:
                raise NoRoom
            undo.callback(slot.release)
            root = make_private_directory(self._folder / str(next(self._numbers)))
            undo.callback(shutil.rmtree, root, ignore_errors=True)
            index.dispose(root)
            made = recipe.make(root)
            undo.callback(self._keeper.dispose, made)
            self._keeper.warm_up(made)
            self._keeper.suspend(made)
            undo.pop_all()
        return Ready(made, slot)


class NoRoom(Exception):
    """Just now there is no slot, or no memory, for a VM that nobody needs yet."""


def _settle(future: Future[T], call: Callable[[], T]) -> BaseException | None:
    """Have FUTURE what CALL returns, or raises; that is returned, too."""
    try:
        future.set_result(call())
    except BaseException as error:  # noqa: BLE001 - for whoever asks the future
        future.set_exception(error)
        return error
    return None


def _result(future: Future[T]) -> T | None:
    """What comes of FUTURE; None when that is an error, or nothing for too long."""
    wait([future], TAKE_TIMEOUT_S)
    return future.result() if future.done() and future.exception() is None else None


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001 - nobody is there to be told
        HOST.exception("what was left to be done behind the tests failed")
