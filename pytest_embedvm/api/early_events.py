"""Callbacks that are there before their connection is: for what happened while nobody had the root open."""

from __future__ import annotations

import itertools
import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.api._object import answering
from pytest_embedvm.api.connect.event import domain_event_kind
from pytest_embedvm.constants import DomainEventID
from pytest_embedvm.driver.driver import Driver

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

#: An event id (`VIR_DOMAIN_EVENT_ID_*`), what is called for it as by `domainEventRegisterAny`, and its opaque.
EarlyEvent = tuple[int, Callable[..., Any], object]


@dataclass(frozen=True)
class _Registration:
    root: Path
    kind: DomainEventID
    callback: Callable[..., Any]
    opaque: object


_registered: Final[dict[int, _Registration]] = {}
_numbers: Final = itertools.count(1)
#: Drivers whose first connection has taken the registrations of their root.
_served: Final[weakref.WeakSet[Driver]] = weakref.WeakSet()


def register_events(
    root: str | os.PathLike[str], event_id: int, callback: Callable[..., Any], opaque: object = None
) -> int:
    """Have CALLBACK called as by `domainEventRegisterAny(None, …)` on the connection that opens ROOT next.

    It is there before anything that happened while nobody had ROOT open is told. It belongs to the connection that
    opens the root, not to those that join it, and is there again when the root is opened anew, until
    `deregister_events()` is called with the number that this returns.

    :raise libvirtError: INVALID_ARG when there is no event EVENT_ID.
    """
    with answering():
        registration = _Registration(Path(os.path.realpath(root)), domain_event_kind(event_id), callback, opaque)
    number = next(_numbers)
    _registered[number] = registration
    return number


def deregister_events(number: int) -> None:
    """Forget a callback of `register_events()`; it is called no more, on an open connection either.

    :raise KeyError: when there is none with this NUMBER.
    """
    del _registered[number]


def checked(events: Iterable[EarlyEvent]) -> list[tuple[DomainEventID, Callable[..., Any], object]]:
    """What `open` was given as its events.

    :raise InvalidCall: when there is no such event.
    """
    return [(domain_event_kind(event_id), callback, opaque) for event_id, callback, opaque in events]


def attach(
    connection: virConnect, driver: Driver, events: Iterable[tuple[DomainEventID, Callable[..., Any], object]]
) -> None:
    """Give CONNECTION, which is being opened, its EVENTS, and those of its root if it is the root's first.

    On the loop thread only.
    """
    for kind, callback, opaque in events:
        connection._add_domain_event(kind, callback, opaque)
    if driver in _served:
        return
    _served.add(driver)
    for number, registration in tuple(_registered.items()):
        if registration.root == driver.root.path:
            callback = _while_registered(number, registration.callback)
            connection._add_domain_event(registration.kind, callback, registration.opaque)


def _while_registered(number: int, callback: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any) -> None:
        if number in _registered:
            callback(*arguments)

    return call
