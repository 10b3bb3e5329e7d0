"""QEMU's own events, as `libvirt_qemu` hands them out."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect.event import Events
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.constants import ConnectDomainQemuMonitorEventRegisterFlags, ErrorDomain
from pytest_embedvm.driver.events import Event, MonitorEvent
from pytest_embedvm.errors import InvalidArgument

REGEX = ConnectDomainQemuMonitorEventRegisterFlags.REGEX
NOCASE = ConnectDomainQemuMonitorEventRegisterFlags.NOCASE


class MonitorEvents(Events):
    """What stands behind `qemuMonitorEventRegister` and `qemuMonitorEventDeregister`."""

    @public("virConnectDomainQemuMonitorEventRegister", writes=True, origin=ErrorDomain.NONE)
    def _register_monitor_event(
        self, dom: virDomain | None, event: str | None, cb: Callable[..., Any], opaque: object, flags: int
    ) -> int:
        checked = arguments.known(flags, REGEX | NOCASE, "virDomainQemuMonitorEventStateRegisterID", ErrorDomain.NONE)
        wanted = _pattern(event, checked)

        def deliver(domain: virDomain, happened: Event) -> None:
            if isinstance(happened, MonitorEvent) and wanted.search(happened.name):
                cb(self, domain, happened.name, happened.seconds, happened.micros, happened.details, opaque)

        return self._register(dom, None, deliver)

    @public("virConnectDomainQemuMonitorEventDeregister", writes=True, origin=ErrorDomain.NONE)
    def _deregister_monitor_event(self, number: int) -> None:
        self._require_deregister(number, "virConnectDomainQemuMonitorEventDeregister")


def _pattern(event: str | None, flags: ConnectDomainQemuMonitorEventRegisterFlags) -> re.Pattern[str]:
    # libvirt: virDomainQemuMonitorEventStateRegisterID: no name is every name; a regular expression may match anywhere
    if event is None:
        return re.compile("")
    try:
        pattern = event if REGEX in flags else rf"\A{re.escape(event)}\Z"
        return re.compile(pattern, re.IGNORECASE if NOCASE in flags else 0)
    except re.error as error:
        raise InvalidArgument(f"failed to compile regex '{event}': {error}", origin=ErrorDomain.NONE) from None
