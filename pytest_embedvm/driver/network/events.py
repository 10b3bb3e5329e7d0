"""What happens to networks, as events."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_embedvm.constants import NetworkEventID, NetworkEventLifecycleType
from pytest_embedvm.driver.events import Event


@dataclass(frozen=True)
class NetworkLifecycle(Event):
    """libvirt has no details of these: each is 0."""

    event_id = NetworkEventID.EVENT_ID_LIFECYCLE
    event: NetworkEventLifecycleType
    detail: int = 0
