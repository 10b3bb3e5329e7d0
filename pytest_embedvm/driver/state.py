"""The state of a domain, why it is in it, and what libvirt reports when it changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pytest_embedvm.constants import (
    DomainCrashedReason,
    DomainEventResumedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainPausedReason,
    DomainPMSuspendedReason,
    DomainRunningReason,
    DomainShutdownReason,
    DomainShutoffReason,
    DomainState,
)


@dataclass(frozen=True)
class Status:
    """A state and its reason; the reason's enum belongs to the state."""

    state: DomainState
    reason: int


def running(reason: DomainRunningReason) -> Status:
    return Status(DomainState.RUNNING, reason)


def paused(reason: DomainPausedReason) -> Status:
    return Status(DomainState.PAUSED, reason)


def shutoff(reason: DomainShutoffReason) -> Status:
    return Status(DomainState.SHUTOFF, reason)


#: Between QEMU's SHUTDOWN event and the end of its process.
SHUTTING_DOWN: Final = Status(DomainState.SHUTDOWN, DomainShutdownReason.UNKNOWN)
CRASHED: Final = Status(DomainState.CRASHED, DomainCrashedReason.PANICKED)
PMSUSPENDED: Final = Status(DomainState.PMSUSPENDED, DomainPMSuspendedReason.PMSUSPENDED_UNKNOWN)

#: libvirt: qemuDomainPausedReasonToSuspendedEvent; what is not listed is PAUSED.
SUSPENDED_DETAIL: Final = {
    DomainPausedReason.IOERROR: DomainEventSuspendedDetailType.IOERROR,
    DomainPausedReason.WATCHDOG: DomainEventSuspendedDetailType.WATCHDOG,
    DomainPausedReason.FROM_SNAPSHOT: DomainEventSuspendedDetailType.FROM_SNAPSHOT,
    DomainPausedReason.MIGRATION: DomainEventSuspendedDetailType.MIGRATED,
}

#: libvirt: qemuDomainRunningReasonToResumeEvent; what is not listed is UNPAUSED.
RESUMED_DETAIL: Final = {
    DomainRunningReason.RESTORED: DomainEventResumedDetailType.FROM_SNAPSHOT,
    DomainRunningReason.MIGRATED: DomainEventResumedDetailType.MIGRATED,
    DomainRunningReason.MIGRATION_CANCELED: DomainEventResumedDetailType.MIGRATED,
}


@dataclass(frozen=True)
class Ending:
    """Why a machine stopped: the reason of its SHUTOFF state, and the detail of its STOPPED event."""

    reason: DomainShutoffReason
    detail: DomainEventStoppedDetailType


# libvirt: processMonitorEOFEvent, qemuDomainDestroyFlags, processGuestPanicEvent
POWERED_OFF: Final = Ending(DomainShutoffReason.SHUTDOWN, DomainEventStoppedDetailType.SHUTDOWN)
DESTROYED: Final = Ending(DomainShutoffReason.DESTROYED, DomainEventStoppedDetailType.DESTROYED)
LOST: Final = Ending(DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.FAILED)
PANICKED: Final = Ending(DomainShutoffReason.CRASHED, DomainEventStoppedDetailType.CRASHED)
# libvirt: qemuMigrationSrcComplete, qemuMigrationDstFinishActive
MIGRATED: Final = Ending(DomainShutoffReason.MIGRATED, DomainEventStoppedDetailType.MIGRATED)
NOT_ARRIVED: Final = Ending(DomainShutoffReason.FAILED, DomainEventStoppedDetailType.FAILED)
# libvirt: qemuSnapshotRevertActive
REVERTED: Final = Ending(DomainShutoffReason.FROM_SNAPSHOT, DomainEventStoppedDetailType.FROM_SNAPSHOT)
# libvirt: qemuDomainSaveInternal
SAVED: Final = Ending(DomainShutoffReason.SAVED, DomainEventStoppedDetailType.SAVED)
