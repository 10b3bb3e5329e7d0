"""Callbacks for domain events."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_embedvm.api._object import public
from pytest_embedvm.api._part import Identity
from pytest_embedvm.api.connect.callbacks import Callbacks, event_kind
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.events import arguments_of
from pytest_embedvm.constants import DomainEventID
from pytest_embedvm.driver.events import Event, Lifecycle
from pytest_embedvm.driver.machine import Machine

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")
Deliver = Callable[[virDomain, Event], Any]
DomainCallback = Callable[["virConnect", virDomain, int, int, T], Any]


class Events(Callbacks):
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
            deliver(self._domain(Identity(name, machine.uuid)), event)

        return self._add_callback(kind, None if dom is None else dom._machine(), callback)

    def _register_domain_event(
        self, dom: virDomain | None, kind: DomainEventID, cb: Callable[..., Any], opaque: object, key: object = None
    ) -> int:
        return self._register(dom, kind, self._delivering(kind, cb, opaque), key)

    def _add_domain_event(self, kind: DomainEventID, cb: Callable[..., Any], opaque: object) -> int:
        """Register CB for all domains. On the loop thread only."""
        return self._add(None, kind, self._delivering(kind, cb, opaque))

    def _delivering(self, kind: DomainEventID, cb: Callable[..., Any], opaque: object) -> Deliver:
        arguments = arguments_of(kind)
        return lambda domain, event: cb(self, domain, *arguments(event), opaque)

    @public("virConnectDomainEventRegisterAny")
    def domainEventRegisterAny(
        self, dom: virDomain | None, eventID: int, cb: Callable[..., Any], opaque: object
    ) -> int:
        """Have CB called for each event EVENTID (`VIR_DOMAIN_EVENT_ID_*`) of DOM, or of all domains.

        CB takes (conn, dom, …, opaque), where … depends on the event; a lifecycle event gives (event, detail).
        Returns a number for `domainEventDeregisterAny`.

        :raise libvirtError: NO_DOMAIN when DOM is gone.
        """
        return self._register_domain_event(dom, domain_event_kind(eventID), cb, opaque)

    @public("virConnectDomainEventDeregisterAny")
    def domainEventDeregisterAny(self, callbackID: int) -> None:
        """Have a callback called no more, from inside it too.

        :raise libvirtError: INVALID_ARG when this connection has none with this number.
        """
        self._require_deregister(callbackID, "virConnectDomainEventDeregisterAny")

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


def domain_event_kind(number: int) -> DomainEventID:
    """The kind of event of domains that NUMBER stands for.

    :raise InvalidCall: when there is none.
    """
    return event_kind(number, DomainEventID, "virConnectDomainEventRegisterAny")
