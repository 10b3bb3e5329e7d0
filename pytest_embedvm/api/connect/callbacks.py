"""The callbacks of a connection, for events of every kind: one way to register, one to deregister."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.event_loop import event_delivered
from pytest_embedvm.api.events import arguments_of
from pytest_embedvm.constants import DomainEventID, ErrorDomain, NetworkEventID, SecretEventID, StoragePoolEventID
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.events import Event, Kind
from pytest_embedvm.driver.hub import Subject
from pytest_embedvm.errors import InvalidArgument, InvalidCall

K = TypeVar("K", DomainEventID, NetworkEventID, SecretEventID, StoragePoolEventID)
S = TypeVar("S", bound=Subject)


class Callbacks(Base):
    """What …EventRegisterAny and …EventDeregisterAny stand on. Numbers of one family are none of another's."""

    def _add_callback(self, kind: Kind | None, subject: S | None, deliver: Callable[[S, Event], object]) -> int:
        """Register. On the loop thread only."""

        def callback(subject: S, event: Event) -> None:
            try:
                deliver(subject, event)
            finally:
                event_delivered()

        session = self._session
        number = session.driver.events.register(kind, subject, callback)
        session.callbacks[number] = DomainEventID if kind is None else type(kind)
        return number

    def _forget(self, number: int, family: type[Kind] = DomainEventID) -> bool:
        """Deregister; whether FAMILY had one. On the loop thread only."""
        if self._session.callbacks.get(number) is not family:
            return False
        del self._session.callbacks[number]
        return self._session.driver.events.deregister(number)

    def _register_object_event(
        self,
        kind: Kind,
        find: Callable[[Driver], S] | None,
        wrap: Callable[[S], object],
        cb: Callable[..., Any],
        opaque: object,
    ) -> int:
        """Have CB called with (conn, object, …, opaque) for each event of KIND, of what FIND finds or of all.

        :param wrap: makes the object of the API out of the driver's.
        """
        arguments = arguments_of(kind)

        async def register() -> int:
            subject = None if find is None else find(self._session.driver)
            return self._add_callback(
                kind, subject, lambda found, event: cb(self, wrap(found), *arguments(event), opaque)
            )

        return self._run(register())

    def _require_deregister(self, number: int, function: str, family: type[Kind] = DomainEventID) -> None:
        """Deregister.

        :raise InvalidCall, InvalidArgument: when this connection has no callback of FAMILY with this NUMBER.
        """
        if operator.index(number) < 0:
            raise InvalidCall(f"callbackID in {function} must be zero or greater")

        async def deregister() -> bool:
            return self._forget(number, family)

        if not self._run(deregister()):
            raise InvalidArgument(f"could not find event callback {number} for deletion", origin=ErrorDomain.NONE)


def event_kind(number: int, family: type[K], function: str) -> K:
    """The kind of FAMILY that NUMBER stands for.

    :raise InvalidCall: when there is none.
    """
    if operator.index(number) < 0:
        raise InvalidCall(f"eventID in {function} must be zero or greater")
    if number >= len(family):
        raise InvalidCall(f"eventID in {function} must be less than {len(family)}")
    return family(number)
