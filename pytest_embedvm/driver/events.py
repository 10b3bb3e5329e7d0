"""What happens to domains, as events; `hub.py` delivers them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

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
    NetworkEventID,
    SecretEventID,
    StoragePoolEventID,
)

#: What callbacks register for, by the family of what it happens to. The families count alike: compare types too.
Kind = DomainEventID | NetworkEventID | SecretEventID | StoragePoolEventID


@dataclass(frozen=True)
class Event:
    """What happened to something of a root; `event_id` is the kind that callbacks register for."""

    event_id: ClassVar[Kind | None]


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
class DeviceAdded(Event):
    event_id = DomainEventID.DEVICE_ADDED
    alias: str


@dataclass(frozen=True)
class DeviceRemovalFailed(Event):
    """The guest does not let it go."""

    event_id = DomainEventID.DEVICE_REMOVAL_FAILED
    alias: str


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
