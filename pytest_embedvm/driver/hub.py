"""Events: from the loop to the callbacks, in order, on a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from pytest_embedvm.constants import DomainEventID
from pytest_embedvm.driver.events import Event, Kind
from pytest_embedvm.logs import Log


class Subject(Protocol):
    """What events happen to: a machine, a network, a secret, a pool."""

    @property
    def name(self) -> str: ...

    @property
    def uuid(self) -> uuid.UUID: ...


S = TypeVar("S", bound=Subject)
#: What is called for an event is given what it happened to, and the event.
Callback = Callable[[S, Event], object]


@dataclass(frozen=True)
class _Registration:
    kind: Kind | None
    subject: Subject | None
    callback: Callback[Any]

    def wants(self, subject: Subject, event: Event) -> bool:
        same = type(event.event_id) is type(self.kind) and event.event_id == self.kind
        # libvirt: virObjectEventDispatchMatchCallback; a transient domain that is started anew is the same
        return same and (self.subject is None or self.subject.uuid == subject.uuid)


class EventHub:
    """The callbacks of one root. Every method may be called from any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._registrations: dict[int, _Registration] = {}
        self._ids = itertools.count()
        self._delivery: _Delivery | None = None
        #: What is emitted before anybody could register; None once that is over.
        self._held: list[tuple[Subject, Event]] | None = None
        #: What callbacks wait for, in order.
        self._undelivered: dict[int, tuple[Subject, Event]] = {}
        self._numbers = itertools.count()
        self._delivering = -1
        self._stopped = False
        #: Called on the thread of the callbacks whenever they were told something of a subject.
        self.on_delivered: Callable[[Subject], None] | None = None

    def register(self, kind: Kind | None, subject: S | None, callback: Callback[S]) -> int:
        """Have CALLBACK called with (subject, event) for each event of KIND, of what has the uuid of SUBJECT or of all.

        No kind stands for QEMU's own events.

        Callbacks run one after the other, in the order of the events, on a thread that is not the loop's:
        they may call the driver again. What they raise is logged.
        """
        with self._lock:
            number = next(self._ids)
            self._registrations[number] = _Registration(kind, subject, callback)
            if self._delivery is None:
                self._delivery = _enter()
            return number

    def deregister(self, number: int) -> bool:
        """Forget a registration, from inside its own callback too; whether there was one."""
        with self._lock:
            return self._registrations.pop(number, None) is not None

    def hold(self) -> None:
        """Keep what is emitted from here on until `release`: those who are to hear it cannot register yet."""
        with self._lock:
            self._held = []

    @property
    def holding(self) -> bool:
        return self._held is not None

    def release(self) -> None:
        """Deliver what was held to those who are registered by now."""
        with self._lock:
            held, self._held = self._held or [], None
            for subject, event in held:
                self._queue(subject, event)
        for subject, _ in held:
            if self.on_delivered is not None:  # what nobody wants is not pending any more
                self.on_delivered(subject)

    def emit(self, subject: Subject, event: Event) -> None:
        """Queue EVENT for delivery; never waits."""
        with self._lock:
            if self._held is not None:
                self._held.append((subject, event))
            else:
                self._queue(subject, event)

    def _queue(self, subject: Subject, event: Event) -> None:
        # Who registers later does not hear what was before.
        wanted = [number for number, entry in self._registrations.items() if entry.wants(subject, event)]
        if self._delivery is not None and wanted:
            number = next(self._numbers)
            self._undelivered[number] = (subject, event)
            self._delivery.queue.put(partial(self._deliver, number, wanted, subject, event))

    def undelivered(self, subject: Subject) -> list[Event]:
        """What callbacks wait for and were not told yet, of what has SUBJECT's kind and name."""
        with self._lock:
            waiting = [*self._undelivered.values(), *(self._held or ())]
        return [event for of, event in waiting if type(of) is type(subject) and of.name == subject.name]

    async def drain(self, timeout: float) -> bool:
        """Wait until what was emitted so far is delivered; whether that was within TIMEOUT seconds."""
        loop, drained = asyncio.get_running_loop(), asyncio.Event()
        with self._lock:
            if self._delivery is None:
                return True
            self._delivery.queue.put(partial(_tell, loop, drained))
        try:
            async with asyncio.timeout(timeout):
                await drained.wait()
        except TimeoutError:
            return False
        return True

    def delivers_here(self) -> bool:
        """Whether this is the thread of the callbacks: one of them is running."""
        delivery = self._delivery
        return delivery is not None and delivery.thread is threading.current_thread()

    def stop(self) -> None:
        """Deliver nothing any more; what waits stays undelivered, but for what a callback is being told now."""
        with self._lock:
            self._stopped = True
            self._undelivered.pop(self._delivering, None)

    def close(self) -> None:
        """Forget all registrations; what was emitted and not delivered yet is dropped, as libvirt does."""
        self.stop()
        with self._lock:
            self._registrations.clear()
            self._held = None
            delivery, self._delivery = self._delivery, None
        if delivery is not None:
            _leave(delivery)

    def _deliver(self, number: int, wanted: list[int], subject: Subject, event: Event) -> None:
        with self._lock:
            if self._stopped:
                return
            self._delivering = number
        self._call(wanted, subject, event)
        with self._lock:
            self._delivering = -1
            waited = self._undelivered.pop(number, None) is not None and not self._stopped
        if waited and self.on_delivered is not None:
            self.on_delivered(subject)

    def _call(self, wanted: list[int], subject: Subject, event: Event) -> None:
        """Call those of WANTED that are still registered."""
        for number in wanted:
            with self._lock:
                entry = self._registrations.get(number)
            if entry is None:  # an earlier callback deregistered it
                continue
            try:
                entry.callback(subject, event)
            except BaseException:  # a test's own failure, or an exit, may be none of Exception's
                of_domain = isinstance(event.event_id, DomainEventID | None)
                log = self._log.about(subject.name) if of_domain else self._log
                log.exception("callback %r of event %s failed", entry.callback, event)


def _tell(loop: asyncio.AbstractEventLoop, drained: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # who waited is gone, and its loop too
        loop.call_soon_threadsafe(drained.set)


class _Delivery:
    """The thread that calls callbacks: one for all hubs, alive while one of them has registrations."""

    def __init__(self) -> None:
        self.users = 0
        self.queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._main, name="embedvm-events", daemon=True)
        self.thread.start()

    def _main(self) -> None:
        while (item := self.queue.get()) is not None:
            item()
            del item  # nothing of a closed root stays alive while this waits


_lock = threading.Lock()
_current: _Delivery | None = None


def _enter() -> _Delivery:
    global _current
    with _lock:
        if _current is None:
            _current = _Delivery()
        _current.users += 1
        return _current


def _leave(delivery: _Delivery) -> None:
    global _current
    with _lock:
        delivery.users -= 1
        if delivery.users == 0:
            delivery.queue.put(None)
            if _current is delivery:
                _current = None


def _forget_in_child() -> None:
    """A child of fork has the object and not the thread."""
    global _lock, _current
    _lock = threading.Lock()
    _current = None


os.register_at_fork(after_in_child=_forget_in_child)
