"""Events as libvirt-python's callbacks take them: one row per kind of event."""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final

from pytest_embedvm.constants import DomainEventID, NetworkEventID, SecretEventID, StoragePoolEventID
from pytest_embedvm.driver.events import Event, Kind

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
    DomainEventID.DEVICE_ADDED: _fields("alias"),
    DomainEventID.DEVICE_REMOVED: _fields("alias"),
    DomainEventID.DEVICE_REMOVAL_FAILED: _fields("alias"),
    DomainEventID.BLOCK_JOB: _fields("disk", "kind", "status"),
    DomainEventID.BLOCK_JOB_2: _fields("disk", "kind", "status"),
    DomainEventID.AGENT_LIFECYCLE: _fields("state", "reason"),
    DomainEventID.MIGRATION_ITERATION: _fields("iteration"),
    DomainEventID.JOB_COMPLETED: _fields("stats"),
    DomainEventID.METADATA_CHANGE: _fields("kind", "uri"),
}

NETWORK_ARGUMENTS: Final[dict[NetworkEventID, Arguments]] = {
    NetworkEventID.EVENT_ID_LIFECYCLE: _fields("event", "detail"),
}
SECRET_ARGUMENTS: Final[dict[SecretEventID, Arguments]] = {
    SecretEventID.LIFECYCLE: _fields("event", "detail"),
    SecretEventID.VALUE_CHANGED: nothing,
}
STORAGE_POOL_ARGUMENTS: Final[dict[StoragePoolEventID, Arguments]] = {
    StoragePoolEventID.LIFECYCLE: _fields("event", "detail"),
    StoragePoolEventID.REFRESH: nothing,
}


def arguments_of(kind: Kind) -> Arguments:
    """The row of KIND, whatever its family."""
    match kind:
        case DomainEventID():
            return ARGUMENTS.get(kind, nothing)
        case NetworkEventID():
            return NETWORK_ARGUMENTS[kind]
        case SecretEventID():
            return SECRET_ARGUMENTS[kind]
        case StoragePoolEventID():
            return STORAGE_POOL_ARGUMENTS[kind]
