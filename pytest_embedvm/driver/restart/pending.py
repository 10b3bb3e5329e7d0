"""Events on record: emitted, and not delivered before who was to hear them was gone."""

from __future__ import annotations

import dataclasses
from enum import IntEnum
from types import NoneType
from typing import Any, Final, get_args, get_type_hints

from pytest_embedvm.constants import (
    DomainEventCrashedDetailType,
    DomainEventDefinedDetailType,
    DomainEventPMSuspendedDetailType,
    DomainEventResumedDetailType,
    DomainEventShutdownDetailType,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
)
from pytest_embedvm.driver import events
from pytest_embedvm.driver.events import Event, Lifecycle
from pytest_embedvm.driver.restart.record import Pending

_KINDS: Final = {
    kind.__name__: kind
    for kind in vars(events).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
}

_DETAILS: Final[dict[DomainEventType, type[IntEnum]]] = {
    DomainEventType.DEFINED: DomainEventDefinedDetailType,
    DomainEventType.UNDEFINED: DomainEventUndefinedDetailType,
    DomainEventType.STARTED: DomainEventStartedDetailType,
    DomainEventType.SUSPENDED: DomainEventSuspendedDetailType,
    DomainEventType.RESUMED: DomainEventResumedDetailType,
    DomainEventType.STOPPED: DomainEventStoppedDetailType,
    DomainEventType.SHUTDOWN: DomainEventShutdownDetailType,
    DomainEventType.PMSUSPENDED: DomainEventPMSuspendedDetailType,
    DomainEventType.CRASHED: DomainEventCrashedDetailType,
}


def write(event: Event) -> Pending:
    """EVENT for the record."""
    fields = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    return Pending(type(event).__name__, {name: _spell(value) for name, value in fields.items() if value is not None})


def _spell(value: int | str) -> str:
    return str(int(value)) if isinstance(value, int) else value


def read(pending: Pending) -> Event:
    """The event that `write` put on record.

    :raise ValueError: when it is none that is known here.
    """
    kind = _KINDS.get(pending.kind)
    if kind is None:
        raise ValueError(f"there is no event '{pending.kind}'")
    hints = get_type_hints(kind)
    names = [
        f.name for f in dataclasses.fields(kind) if f.name in pending.fields or NoneType in get_args(hints[f.name])
    ]
    try:
        event = kind(**{name: _value(hints[name], pending.fields.get(name)) for name in names})
    except TypeError as error:
        raise ValueError(f"event '{pending.kind}' lacks something: {error}") from None
    if isinstance(event, Lifecycle):
        return dataclasses.replace(event, detail=_DETAILS[event.event](event.detail))
    return event


def _value(kind: Any, text: str | None) -> int | str | None:
    if text is None:
        return None
    if isinstance(kind, type) and issubclass(kind, int):
        return kind(int(text)) if issubclass(kind, IntEnum) else int(text)
    return text
