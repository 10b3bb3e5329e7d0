"""Domain events: from the loop to the callbacks, in order, on a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from pytest_embedvm.constants import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
    ConnectDomainEventBlockJobStatus,
    DomainBlockJobType,
    DomainEventID,
    DomainEventIOErrorAction,
    DomainEventTrayChangeReason,
    DomainEventType,
    DomainEventWatchdogAction,
    DomainMetadataType,
)
from pytest_embedvm.logs import Log

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


@dataclass(frozen=True)
class Event:
    """What happened to a domain; `event_id` is the kind that callbacks register for."""

    event_id: ClassVar[DomainEventID | None]


@dataclass(frozen=True)
class Lifecycle(Event):
    """`detail` is a member of the enum that belongs to `event`: `DomainEventStoppedDetailType` and so on.

    `name` is the domain's at that moment: a rename tells UNDEFINED of the old one, DEFINED of the new.
    """

    event_id = DomainEventID.LIFECYCLE
    event: DomainEventType
    detail: int
    name: str


@dataclass(frozen=True)
class Reboot(Event):
    event_id = DomainEventID.REBOOT


@dataclass(frozen=True)
class RtcChange(Event):
    """`offset` of the guest's clock, in seconds."""

    event_id = DomainEventID.RTC_CHANGE
    offset: int


@dataclass(frozen=True)
class Watchdog(Event):
    event_id = DomainEventID.WATCHDOG
    action: DomainEventWatchdogAction


@dataclass(frozen=True)
class IoError(Event):
    """A disk failed a request; also delivered to those who registered for IO_ERROR_REASON."""

    event_id = DomainEventID.IO_ERROR
    source: str
    alias: str
    action: DomainEventIOErrorAction
    reason: str


@dataclass(frozen=True)
class IoErrorReason(IoError):
    event_id = DomainEventID.IO_ERROR_REASON


@dataclass(frozen=True)
class TrayChange(Event):
    event_id = DomainEventID.TRAY_CHANGE
    alias: str
    reason: DomainEventTrayChangeReason


@dataclass(frozen=True)
class PMWakeup(Event):
    event_id = DomainEventID.PMWAKEUP


@dataclass(frozen=True)
class PMSuspend(Event):
    event_id = DomainEventID.PMSUSPEND


@dataclass(frozen=True)
class PMSuspendDisk(Event):
    event_id = DomainEventID.PMSUSPEND_DISK


@dataclass(frozen=True)
class BalloonChange(Event):
    """`actual` memory of the guest, in KiB."""

    event_id = DomainEventID.BALLOON_CHANGE
    actual: int


@dataclass(frozen=True)
class DeviceRemoved(Event):
    event_id = DomainEventID.DEVICE_REMOVED
    alias: str


@dataclass(frozen=True)
class AgentLifecycle(Event):
    event_id = DomainEventID.AGENT_LIFECYCLE
    state: ConnectDomainEventAgentLifecycleState
    reason: ConnectDomainEventAgentLifecycleReason


@dataclass(frozen=True)
class MigrationIteration(Event):
    """The guest's memory is being sent for the ITERATION-th time, from 1."""

    event_id = DomainEventID.MIGRATION_ITERATION
    iteration: int


@dataclass(frozen=True)
class JobCompleted(Event):
    """A job that takes its time is over, and went well; `stats` are its figures."""

    event_id = DomainEventID.JOB_COMPLETED
    stats: dict[str, int | str]


@dataclass(frozen=True)
class MetadataChange(Event):
    """`uri` is the namespace of a changed element, None for title and description."""

    event_id = DomainEventID.METADATA_CHANGE
    kind: DomainMetadataType
    uri: str | None


@dataclass(frozen=True)
class BlockJob(Event):
    """A block job ended; also delivered to those who registered for BLOCK_JOB_2. `disk` is the image's path here."""

    event_id = DomainEventID.BLOCK_JOB
    disk: str
    kind: DomainBlockJobType
    status: ConnectDomainEventBlockJobStatus


@dataclass(frozen=True)
class BlockJob2(BlockJob):
    """`disk` is the target's name."""

    event_id = DomainEventID.BLOCK_JOB_2


@dataclass(frozen=True)
class MonitorEvent(Event):
    """An event of QEMU's own, as it came: `details` is its data as JSON. It has no kind among libvirt's events."""

    event_id = None
    name: str
    seconds: int
    micros: int
    details: str | None


Callback = Callable[["Machine", Event], None]


@dataclass(frozen=True)
class _Registration:
    event_id: DomainEventID | None
    machine: Machine | None
    callback: Callback

    def wants(self, machine: Machine, event: Event) -> bool:
        return event.event_id == self.event_id and self.machine in (None, machine)


class EventHub:
    """The callbacks of one root. Every method may be called from any thread."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._registrations: dict[int, _Registration] = {}
        self._ids = itertools.count()
        self._delivery: _Delivery | None = None
        #: What is emitted before anybody could register; None once that is over.
        self._held: list[tuple[Machine, Event]] | None = None
        #: What callbacks wait for, in order.
        self._undelivered: dict[int, tuple[Machine, Event]] = {}
        self._numbers = itertools.count()
        self._delivering = -1
        self._stopped = False
        #: Called on the thread of the callbacks whenever they were told something of a machine.
        self.on_delivered: Callable[[Machine], None] | None = None

    def register(self, event_id: DomainEventID | None, machine: Machine | None, callback: Callback) -> int:
        """Have CALLBACK called with (machine, event) for each event of the kind, of MACHINE or of all.

        No kind stands for QEMU's own events.

        Callbacks run one after the other, in the order of the events, on a thread that is not the loop's:
        they may call the driver again. What they raise is logged.
        """
        with self._lock:
            number = next(self._ids)
            self._registrations[number] = _Registration(event_id, machine, callback)
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
            for machine, event in held:
                self._queue(machine, event)
        for machine, _ in held:
            if self.on_delivered is not None:  # what nobody wants is not pending any more
                self.on_delivered(machine)

    def emit(self, machine: Machine, event: Event) -> None:
        """Queue EVENT for delivery; never waits."""
        with self._lock:
            if self._held is not None:
                self._held.append((machine, event))
            else:
                self._queue(machine, event)

    def _queue(self, machine: Machine, event: Event) -> None:
        # Who registers later does not hear what was before.
        wanted = [number for number, entry in self._registrations.items() if entry.wants(machine, event)]
        if self._delivery is not None and wanted:
            number = next(self._numbers)
            self._undelivered[number] = (machine, event)
            self._delivery.queue.put(partial(self._deliver, number, wanted, machine, event))

    def undelivered(self, name: str) -> list[Event]:
        """What callbacks wait for and were not told yet, of the domain NAME."""
        with self._lock:
            waiting = [*self._undelivered.values(), *(self._held or ())]
        return [event for machine, event in waiting if machine.name == name]

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

    def _deliver(self, number: int, wanted: list[int], machine: Machine, event: Event) -> None:
        with self._lock:
            if self._stopped:
                return
            self._delivering = number
        self._call(wanted, machine, event)
        with self._lock:
            self._delivering = -1
            waited = self._undelivered.pop(number, None) is not None and not self._stopped
        if waited and self.on_delivered is not None:
            self.on_delivered(machine)

    def _call(self, wanted: list[int], machine: Machine, event: Event) -> None:
        """Call those of WANTED that are still registered."""
        for number in wanted:
            with self._lock:
                entry = self._registrations.get(number)
            if entry is None:  # an earlier callback deregistered it
                continue
            try:
                entry.callback(machine, event)
            except BaseException:  # a test's own failure, or an exit, may be none of Exception's
                log = self._log.about(machine.name)
                log.exception("callback %r of domain event %s failed", entry.callback, event)


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
