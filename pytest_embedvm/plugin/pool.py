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
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from pytest_embedvm import libvirt
from pytest_embedvm.driver.roots import index
from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.files import make_private_directory
from pytest_embedvm.guest import VM
from pytest_embedvm.inotify import Inotify
from pytest_embedvm.logs import HOST
from pytest_embedvm.plugin.slots import LOOK_S, Slot, Slots

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: A clone that is being made, for a test that wants it; it is made anew then.
TAKE_TIMEOUT_S: Final = 60.0
#: The thread, at the session's end: it may be in the middle of one.
CLOSE_TIMEOUT_S: Final = 60.0


class Made(Protocol):
    """A clone in a root of its own."""

    @property
    def connection(self) -> libvirt.virConnect: ...

    @property
    def vm(self) -> VM: ...

    @property
    def root(self) -> Path: ...


class Recipe(Protocol):
    """How a clone is made; two with the same key make the same."""

    @property
    def key(self) -> str: ...

    def make(self, root: Path) -> Made: ...


@dataclass(frozen=True)
class Ready:
    """A clone that was made ahead and is suspended, and the slot it lives in: both are the taker's."""

    made: Made
    slot: Slot


@dataclass(eq=False)
class _Spare:
    """One that is ready, or is being made."""

    key: str
    future: Future[Ready] = field(default_factory=Future)
    #: Nobody will take it.
    unwanted: bool = False


class Pool:
    """The clones that one process makes ahead, each in a directory of its own."""

    def __init__(
        self, folder: Path, slots: Slots, *, size: int, dispose: Callable[[Made], object], may: Callable[[], bool]
    ) -> None:
        """:param folder: where those directories are.
        :param size: how many clones are kept ready.
        :param dispose: ends a clone that nobody took, and removes its root.
        :param may: whether there is memory for one more.
        """
        self._folder = folder
        self._slots = slots
        self._size = size
        self._dispose = dispose
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
        self._wanted: Recipe | None = None
        self._spares: list[_Spare] = []
        #: The keys of what could not be made once: the test that makes it itself will say why.
        self._failed: set[str] = set()
        self._chores: list[Callable[[], object]] = []
        self._closing = False

    # On the thread of the tests

    def prepare(self, recipe: Recipe | None) -> None:
        """Have ready what RECIPE makes, behind this call's back; spares of other recipes are given up for it.

        None makes nothing; what is ready already is kept.
        """
        if self._size and self._pid == os.getpid():
            with self._lock:
                self._wanted = recipe
            self._wake()

    def take(self, recipe: Recipe) -> Ready | None:
        """A clone that RECIPE made, suspended; None if there is none. One that is being made is waited for."""
        if self._pid != os.getpid():  # a forked child's copy, without the thread
            return None
        with self._lock:
            self._wanted = None
            spare = next((spare for spare in self._spares if spare.key == recipe.key and not spare.unwanted), None)
            if spare is None:
                return None
            self._spares.remove(spare)
        try:
            wait([spare.future], TAKE_TIMEOUT_S)
        except BaseException:
            self._leave_alone(spare)
            raise
        if spare.future.done() and spare.future.exception() is None:
            return spare.future.result()
        self._leave_alone(spare)
        return None

    def _leave_alone(self, spare: _Spare) -> None:
        with self._lock:
            spare.unwanted = True
            self._spares.append(spare)
        self._wake()

    def leave(self, chore: Callable[[], object]) -> None:
        """Have CHORE done behind this call's back, after those before it. What it raises is logged."""
        if self._pid != os.getpid():
            return
        with self._lock:
            self._chores.append(chore)
        self._wake()

    def settle(self) -> None:
        """Return when all chores have been done.

        :raise OperationTimeout: when they take too long.
        """
        done = threading.Event()
        self.leave(done.set)
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
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        if watch is not None:
            poll.register(watch, select.POLLIN)
        poll.poll(None if watch or not self._spares else LOOK_S * 1000)
        if watch is not None:
            watch.forget()
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4096)

    def _work(self) -> Callable[[], object] | None:
        """What is to be done next: what tests have left, what is too much, what is missing."""
        with self._lock:
            if self._chores:
                return self._chores.pop(0)
            surplus = self._surplus()
            if surplus is not None:
                self._spares.remove(surplus)
                return partial(self._end, surplus)
            wanted = self._wanted
            if wanted is None or self._closing or len(self._spares) >= self._size or wanted.key in self._failed:
                return None
            spare = _Spare(wanted.key)
            self._spares.append(spare)
        return partial(self._make, wanted, spare)

    def _surplus(self) -> _Spare | None:
        """A spare that has to go: for its own sake, for another's, or for somebody who waits for its slot."""
        if not self._spares:
            return None
        wanted = self._wanted
        all_go = self._closing or self._slots.waiting()
        for spare in self._spares:
            if all_go or spare.unwanted or (wanted is not None and wanted.key != spare.key):
                return spare
        return None

    def _end(self, spare: _Spare) -> None:
        if spare.future.exception() is None:
            ready = spare.future.result()
            try:
                self._dispose(ready.made)
            finally:
                ready.slot.release()

    def _make(self, recipe: Recipe, spare: _Spare) -> None:
        try:
            spare.future.set_result(self._made(recipe))
        except BaseException as error:  # noqa: BLE001 - the test that makes it itself will say it, if it is still so
            with self._lock:
                self._wanted = None
                self._spares = [other for other in self._spares if other is not spare]
                if not isinstance(error, NoRoom):
                    self._failed.add(recipe.key)
                    HOST.warning("no VM could be made ahead of its test", exc_info=error)
            spare.future.set_exception(error)

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
            undo.callback(self._dispose, made)
            _warm_up(made.vm)
            undo.pop_all()
        return Ready(made, slot)


class NoRoom(Exception):
    """Just now there is no slot, or no memory, for a VM that nobody needs yet."""


def _warm_up(vm: VM) -> None:
    """Have the guest do once what tests do first, for an emulator is slow the first time, and stop it."""
    vm.wait_ready()
    vm.run("true")
    vm.run(["true"])
    vm.domain.suspend()


def _do(work: Callable[[], object]) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001 - nobody is there to be told
        HOST.exception("what a test has left could not be taken away")
