"""What happens to secrets, as events."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_embedvm.constants import SecretEventID, SecretEventLifecycleType
from pytest_embedvm.driver.events import Event


@dataclass(frozen=True)
class SecretLifecycle(Event):
    """libvirt has no details of these: each is 0."""

    event_id = SecretEventID.LIFECYCLE
    event: SecretEventLifecycleType
    detail: int = 0


@dataclass(frozen=True)
class SecretValueChanged(Event):
    event_id = SecretEventID.VALUE_CHANGED
