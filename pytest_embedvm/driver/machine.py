"""A domain that is alive: its definition, its state, and what can be done to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from typing import TYPE_CHECKING, Any, Literal

from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainDestroyFlagsValues,
    DomainEventDefinedDetailType,
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainEventUndefinedDetailType,
    DomainModificationImpact,
    DomainPausedReason,
    DomainQemuMonitorCommandFlags,
    DomainShutoffReason,
    DomainState,
    DomainUndefineFlagsValues,
    DomainXMLFlags,
    ErrorDomain,
)
from pytest_embedvm.domain import definition as xml
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.driver import channels, metadata, passthrough, persist, power, state, stop
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.driver.events import Event, Lifecycle, MetadataChange
from pytest_embedvm.driver.evidence import Evidence, tail
from pytest_embedvm.driver.root import Root
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.start import command_line, start
from pytest_embedvm.errors import NoDomain, OperationInvalid, XMLError

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver

Action = Literal["on_poweroff", "on_reboot", "on_crash"]


class Machine:
    """One domain of a root, from the moment it is created or defined until it is neither.

    `definition` is what the next start will have; `live` what runs. Every method must run on the loop thread.
    """

    def __init__(self, driver: Driver, definition: Domain, *, persistent: bool) -> None:
        self._driver = driver
        self.definition = definition
        self.live: Completed | None = None
        self.persistent = persistent
        self.status = state.shutoff(DomainShutoffReason.UNKNOWN)
        #: Whose end ends it: the connection that started it with AUTO_DESTROY.
        self.owner: object | None = None
        self.job = asyncio.Lock()
        self._running: Running | None = None
        self._last: Running | None = None

    # What it is

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def uuid(self) -> uuid.UUID:
        if self.definition.uuid is None:  # complete() gives every domain one
            raise NoDomain(f"domain '{self.name}' has no uuid")
        return self.definition.uuid
