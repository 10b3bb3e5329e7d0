"""Domain events as libvirt-python's callbacks take them: one row per kind of event."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from pytest_embedvm.constants import DomainEventID
from pytest_embedvm.driver.events import Event

Arguments = Callable[[Event], tuple[Any, ...]]


def _fields(*names: str) -> Arguments:
    getters = [attrgetter(name) for name in names]
    return lambda event: tuple(get(event) for get in getters)


def nothing(_event: Event) -> tuple[()]:
    """The arguments of an event that says nothing but that it happened."""
    return ()


def _reason_unknown(_event: Event) -> tuple[int]:
    return (0,)  # libvirt: no driver ever gives a reason for these


#: Event id → what the callback is given between the domain and the opaque. An id without a row can be
#: registered for; the driver has no such event yet.
ARGUMENTS: Final[dict[DomainEventID, Arguments]] = {
    DomainEventID.LIFECYCLE: _fields("event", "detail"),
    DomainEventID.REBOOT: nothing,
    DomainEventID.RTC_CHANGE: _fields("offset"),
    DomainEventID.WATCHDOG: _fields("action"),
    DomainEventID.IO_ERROR: _fields("source", "alias", "action"),
    DomainEventID.IO_ERROR_REASON: _fields("source", "alias", "action", "reason"),
    DomainEventID.TRAY_CHANGE: _fields("alias", "reason"),
    DomainEventID.PMWAKEUP: _reason_unknown,
    DomainEventID.PMSUSPEND: _reason_unknown,
    DomainEventID.PMSUSPEND_DISK: _reason_unknown,
    DomainEventID.BALLOON_CHANGE: _fields("actual"),
    DomainEventID.DEVICE_REMOVED: _fields("alias"),
    DomainEventID.BLOCK_JOB: _fields("disk", "kind", "status"),
    DomainEventID.BLOCK_JOB_2: _fields("disk", "kind", "status"),
    DomainEventID.AGENT_LIFECYCLE: _fields("state", "reason"),
    DomainEventID.MIGRATION_ITERATION: _fields("iteration"),
    DomainEventID.JOB_COMPLETED: _fields("stats"),
    DomainEventID.METADATA_CHANGE: _fields("kind", "uri"),
}
