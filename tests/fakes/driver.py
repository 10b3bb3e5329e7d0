"""A driver without QEMU: machines that do at once what they are told, and say what they were told."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from pytest_embedvm.constants import (
    ConnectListAllDomainsFlags,
    DomainEventDefinedDetailType,
    DomainEventResumedDetailType,
    DomainEventStartedDetailType,
    DomainEventStoppedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainPausedReason,
    DomainRunningReason,
    DomainShutoffReason,
    DomainState,
)
from pytest_embedvm.driver.events import Lifecycle
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.errors import NoConnect, NoDomain, NoMetadata, OperationInvalid
from pytest_embedvm.logs import HOST

UUID = uuid.UUID("11111111-1111-1111-1111-111111111111")


class FakeLink:
    """A console that echoes, and ends when it is closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.closed = False

    async def read(self, _size: int) -> bytes:
        return await self.queue.get()

    async def write(self, data: bytes) -> int:
        self.queue.put_nowait(data)
        return len(data)

    async def close(self) -> None:
        self.closed = True
        self.queue.put_nowait(b"")


class FakeMachine:
    """Every order is written down in `orders`."""

    def __init__(self, driver: FakeDriver, name: str, number: uuid.UUID, *, persistent: bool) -> None:
        self._driver = driver
        self.name = name
        self.uuid = number
        self.id = -1
        self.owner: object = None
        self.root = SimpleNamespace(path=Path("/nonexistent"))
        self.persistent = persistent
        self.updated = False
        self.state: tuple[DomainState, int] = (DomainState.SHUTOFF, DomainShutoffReason.UNKNOWN)
        vcpu = SimpleNamespace(maximum=4, current=2)
        self.definition: Any = SimpleNamespace(vcpu=vcpu, os=SimpleNamespace(type="hvm"))
        self.live: Any = None
        self.title: str | None = None
        self.links: list[FakeLink] = []
        self.orders: list[tuple[Any, ...]] = []

    def _emit(self, event: DomainEventType, detail: int) -> None:
        self._driver.events.emit(self, Lifecycle(event, detail, self.name))  # type: ignore[arg-type]

    async def create(self, flags: int, owner: object) -> None:
        self.owner = owner
        self.orders.append(("create", flags))
        if self.id != -1:
            raise OperationInvalid("domain is already running")
        self._driver.started += 1
        self.id, self.live = self._driver.started, self.definition
        self.state = (DomainState.RUNNING, DomainRunningReason.BOOTED)
        self._emit(DomainEventType.STARTED, DomainEventStartedDetailType.BOOTED)

    async def destroy(self, flags: int) -> None:
        self.orders.append(("destroy", flags))
        self.id, self.live = -1, None
        self.state = (DomainState.SHUTOFF, DomainShutoffReason.DESTROYED)
        if not self.persistent:
            self._driver.all.remove(self)
        self._emit(DomainEventType.STOPPED, DomainEventStoppedDetailType.DESTROYED)

    async def suspend(self) -> None:
        self.state = (DomainState.PAUSED, DomainPausedReason.USER)
        self._emit(DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.PAUSED)

    async def resume(self) -> None:
        self.state = (DomainState.RUNNING, DomainRunningReason.UNPAUSED)
        self._emit(DomainEventType.RESUMED, DomainEventResumedDetailType.UNPAUSED)

    async def shutdown(self, flags: int) -> None:
        self.orders.append(("shutdown", flags))

    async def reboot(self, flags: int) -> None:
        self.orders.append(("reboot", flags))

    async def reset(self) -> None:
        self.orders.append(("reset",))

    async def undefine(self, flags: int) -> None:
        self.orders.append(("undefine", flags))
        self._driver.all.remove(self)

    async def rename(self, new: str) -> None:
        self.name = new

    def xml(self, flags: int) -> str:
        return f"<domain><name>{self.name}</name><!-- {int(flags)} --></domain>"

    def info(self) -> tuple[DomainState, int, int, int, int]:
        return (self.state[0], 262144, 131072, 2, 310000000)

    def metadata(self, kind: int, uri: str | None, flags: int) -> str:
        self.orders.append(("metadata", kind, uri, flags))
        if self.title is None:
            raise NoMetadata("Requested metadata element is not present")
        return self.title

    async def set_metadata(self, kind: int, text: str | None, key: str | None, uri: str | None, flags: int) -> None:
        self.orders.append(("set_metadata", kind, text, key, uri, flags))
        self.title = text

    async def monitor_command(self, text: str, flags: int) -> str:
        return f"{text} {int(flags)}"

    async def agent_command(self, text: str, timeout: int, flags: int) -> str:
        return f"{text} {timeout} {int(flags)}"

    async def open_console(self, device: str | None, *, force: bool) -> FakeLink:
        self.orders.append(("open_console", device, force))
        self.links.append(FakeLink())
        return self.links[-1]

    async def open_channel(self, name: str | None, *, force: bool) -> FakeLink:
        self.orders.append(("open_channel", name, force))
        self.links.append(FakeLink())
        return self.links[-1]


class FakeDriver:
    """One driver per connection. The XML is the domain's name."""

    made: ClassVar[list[FakeDriver]] = []

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.root = SimpleNamespace(log=HOST)
        self.events = EventHub(HOST)
        self.all: list[FakeMachine] = []
        self.started = 0
        self.closings = 0
        self.owners: list[object] = []

    @classmethod
    async def open(cls, uri: str, options: object) -> FakeDriver:
        if not uri.startswith("qemu:///embed?root=/"):
            raise NoConnect(uri)
        driver = cls(uri)
        cls.made.append(driver)
        return driver

    async def close(self, owner: object) -> None:
        self.closings += 1
        self.owners.append(owner)
        self.events.close()

    def _add(self, xml: str, *, persistent: bool) -> FakeMachine:
        if not xml.isalnum():
            raise ZeroDivisionError("a mistake of the driver's")
        number = UUID if xml == "a" else uuid.uuid5(UUID, xml)
        machine = FakeMachine(self, xml, number, persistent=persistent)
        self.all.append(machine)
        return machine

    async def create_xml(self, xml: str, flags: int, owner: object) -> FakeMachine:
        machine = self._add(xml, persistent=False)
        await machine.create(flags, owner)
        return machine

    async def define_xml(self, xml: str, flags: int) -> FakeMachine:
        machine = self._add(xml, persistent=True)
        machine.orders.append(("define", flags))
        machine._emit(DomainEventType.DEFINED, DomainEventDefinedDetailType.ADDED)
        return machine

    def machines(self, flags: int = 0) -> list[FakeMachine]:
        active, inactive = ConnectListAllDomainsFlags.ACTIVE, ConnectListAllDomainsFlags.INACTIVE
        return [m for m in self.all if not flags & (active | inactive) or flags & (inactive if m.id == -1 else active)]

    def _by(self, what: str, value: object, field: str) -> FakeMachine:
        for machine in self.all:
            if getattr(machine, field) == value:
                return machine
        raise NoDomain(f"no domain with matching {what}")

    def by_id(self, number: int) -> FakeMachine:
        return self._by(f"id {number}", number, "id")

    def by_name(self, name: str) -> FakeMachine:
        return self._by(f"name '{name}'", name, "name")

    def by_uuid(self, number: uuid.UUID) -> FakeMachine:
        return self._by(f"uuid '{number}'", number, "uuid")

    async def native(self, xml: str) -> str:
        return f"qemu {xml}"
