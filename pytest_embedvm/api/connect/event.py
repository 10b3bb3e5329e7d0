"""Callbacks for domain events."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.domain._base import Identity
from pytest_embedvm.api.event_loop import event_delivered
from pytest_embedvm.api.events import ARGUMENTS, nothing
from pytest_embedvm.constants import DomainEventID, ErrorDomain
from pytest_embedvm.driver.events import Event, Lifecycle
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import InvalidArgument, InvalidCall

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")
Deliver = Callable[[virDomain, Event], Any]
DomainCallback = Callable[["virConnect", virDomain, int, int, T], Any]


class Events(Base):
    """domainEventRegister… and …Deregister….

    Callbacks run on a thread of the driver's, one after the other, in the order of the events. They may
    call this API. What they raise is logged.
    """

    def _register(self, dom: virDomain | None, kind: DomainEventID | None, deliver: Deliver, key: object = None) -> int:
        """Have DELIVER called; with a KEY instead of what was registered under the same before."""

        async def register() -> int:
            session, number = self._session, self._add(dom, kind, deliver)
            if key is not None:
                self._forget(session.lifecycle_callbacks.pop(key, -1))
                session.lifecycle_callbacks[key] = number
            return number

        return self._run(register())

    def _add(self, dom: virDomain | None, kind: DomainEventID | None, deliver: Deliver) -> int:
        """Register. On the loop thread only."""

        def callback(machine: Machine, event: Event) -> None:
            name = event.name if isinstance(event, Lifecycle) else machine.name
            try:
                deliver(self._domain(Identity(name, machine.uuid)), event)
            finally:
                event_delivered()

        session, machine = self._session, None if dom is None else dom._machine()
        number = session.driver.events.register(kind, machine, callback)
        session.callbacks.add(number)
        return number

    def _forget(self, number: int) -> bool:
        """Deregister; whether there was one. On the loop thread only."""
        if number not in self._session.callbacks:
            return False
        self._session.callbacks.remove(number)
        return self._session.driver.events.deregister(number)

    def _register_domain_event(
        self, dom: virDomain | None, kind: DomainEventID, cb: Callable[..., Any], opaque: object, key: object = None
    ) -> int:
        return self._register(dom, kind, self._delivering(kind, cb, opaque), key)

    def _add_domain_event(self, kind: DomainEventID, cb: Callable[..., Any], opaque: object) -> int:
        """Register CB for all domains. On the loop thread only."""
        return self._add(None, kind, self._delivering(kind, cb, opaque))

    def _delivering(self, kind: DomainEventID, cb: Callable[..., Any], opaque: object) -> Deliver:
        arguments_of = ARGUMENTS.get(kind, nothing)
        return lambda domain, event: cb(self, domain, *arguments_of(event), opaque)

    @public("virConnectDomainEventRegisterAny")
    def domainEventRegisterAny(
        self, dom: virDomain | None, eventID: int, cb: Callable[..., Any], opaque: object
    ) -> int:
        """Have CB called for each event EVENTID (`VIR_DOMAIN_EVENT_ID_*`) of DOM, or of all domains.

        CB takes (conn, dom, …, opaque), where … depends on the event; a lifecycle event gives (event, detail).
        Returns a number for `domainEventDeregisterAny`.

        :raise libvirtError: NO_DOMAIN when DOM is gone.
        """
        return self._register_domain_event(dom, event_kind(eventID), cb, opaque)

    @public("virConnectDomainEventDeregisterAny")
    def domainEventDeregisterAny(self, callbackID: int) -> None:
        """Have a callback called no more, from inside it too.

        :raise libvirtError: INVALID_ARG when this connection has none with this number.
        """
        self._require_deregister(callbackID, "virConnectDomainEventDeregisterAny")

    def _require_deregister(self, number: int, function: str) -> None:
        if operator.index(number) < 0:
            raise InvalidCall(f"callbackID in {function} must be zero or greater")
        if not self._deregister(number):
            raise InvalidArgument(f"could not find event callback {number} for deletion", origin=ErrorDomain.NONE)

    def _deregister(self, number: int) -> bool:
        async def deregister() -> bool:
            return self._forget(number)

        return self._run(deregister())

    @public("virConnectDomainEventRegister")
    def domainEventRegister(self, cb: DomainCallback[T], opaque: T) -> None:
        """Have CB called with (conn, dom, event, detail, opaque) for each lifecycle event of all domains.

        Registering CB again changes its opaque.
        """
        hash(cb)  # what cannot be found again is the caller's TypeError, as in libvirt-python
        self._register_domain_event(None, DomainEventID.LIFECYCLE, cb, opaque, key=cb)

    @public("virConnectDomainEventDeregister")
    def domainEventDeregister(self, cb: DomainCallback[T]) -> None:
        """Have a callback of `domainEventRegister` called no more; nothing to do when it is not registered."""

        async def deregister() -> None:
            self._forget(self._session.lifecycle_callbacks.pop(cb, -1))

        self._run(deregister())

    @public("virConnectRegisterCloseCallback")
    def registerCloseCallback(self, cb: Callable[[virConnect, int, T], Any], opaque: T) -> int:
        """Accepted, and never called: there is no daemon that this connection could lose."""
        return 0

    @public("virConnectUnregisterCloseCallback")
    def unregisterCloseCallback(self) -> None:
        """Accepted."""


def event_kind(number: int) -> DomainEventID:
    """The kind of event that NUMBER stands for.

    :raise InvalidCall: when there is none.
    """
    if operator.index(number) < 0:
        raise InvalidCall("eventID in virConnectDomainEventRegisterAny must be zero or greater")
    if number >= len(DomainEventID):
        raise InvalidCall(f"eventID in virConnectDomainEventRegisterAny must be less than {len(DomainEventID)}")
    return DomainEventID(number)
