"""What happens to storage pools, as events."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_embedvm.constants import StoragePoolEventID, StoragePoolEventLifecycleType
from pytest_embedvm.driver.events import Event


@dataclass(frozen=True)
class PoolLifecycle(Event):
    """libvirt has no details of these: each is 0."""

    event_id = StoragePoolEventID.LIFECYCLE
    event: StoragePoolEventLifecycleType
    detail: int = 0


@dataclass(frozen=True)
class PoolRefresh(Event):
    """Its volumes were looked at anew."""

    event_id = StoragePoolEventID.REFRESH
