"""Domain events: from the loop to the callbacks, in order, on a thread of their own."""

from __future__ import annotations

import itertools
import os
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pytest_embedvm.constants import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
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
    stats: Mapping[str, int | str]


@dataclass(frozen=True)
class MetadataChange(Event):
    """`uri` is the namespace of a changed element, None for title and description."""

    event_id = DomainEventID.METADATA_CHANGE
    kind: DomainMetadataType
    uri: str | None


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

    def emit(self, machine: Machine, event: Event) -> None:
        """Queue EVENT for delivery; never waits."""
        with self._lock:
            if self._delivery is not None:
                self._delivery.queue.put((self, machine, event))

    def close(self) -> None:
        """Forget all registrations; what was emitted and not delivered yet is dropped, as libvirt does."""
        with self._lock:
            self._registrations.clear()
            delivery, self._delivery = self._delivery, None
        if delivery is not None:
            _leave(delivery)

    def deliver(self, machine: Machine, event: Event) -> None:
        """Call the callbacks that are registered at this moment."""
        with self._lock:
            wanted = [number for number, entry in self._registrations.items() if entry.wants(machine, event)]
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


class _Delivery:
    """The thread that calls callbacks: one for all hubs, alive while one of them has registrations."""

    def __init__(self) -> None:
        self.users = 0
        self.queue: queue.SimpleQueue[tuple[EventHub, Machine, Event] | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._main, name="embedvm-events", daemon=True)
        self.thread.start()

    def _main(self) -> None:
        while (item := self.queue.get()) is not None:
            hub, machine, event = item
            hub.deliver(machine, event)
            del item, hub, machine, event  # nothing of a closed root stays alive while this waits


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
