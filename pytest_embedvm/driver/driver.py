"""One driver per root and process; connections share it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import time
import uuid
from collections.abc import Iterable
from functools import partial
from typing import Final

from pytest_embedvm.constants import DomainCreateFlags, DomainDefineFlags, ErrorDomain
from pytest_embedvm.domain import complete as completing
from pytest_embedvm.domain import definition
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.driver import capabilities_xml, defining, logs, media, persist, stop, subdrivers
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.events import Event
from pytest_embedvm.driver.filters import matches
from pytest_embedvm.driver.host import EmbedHost
from pytest_embedvm.driver.hosts.hosts import Hosts
from pytest_embedvm.driver.hub import EventHub, Subject
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.migration.server import Server
from pytest_embedvm.driver.network.private import PrivateNetworks
from pytest_embedvm.driver.ownership import Ownership
from pytest_embedvm.driver.registry import Registry
from pytest_embedvm.driver.restart import reconnect
from pytest_embedvm.driver.restart.ids import Ids
from pytest_embedvm.driver.restart.recording import Recordings
from pytest_embedvm.driver.roots.lock import HeldInPassing
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.secret.private import PrivateSecrets
from pytest_embedvm.driver.start import command_line
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.driver.templates import belongings
from pytest_embedvm.driver.uri import Uri, make_uri, parse_uri
from pytest_embedvm.errors import InvalidConnection, NoDomain, OperationInvalid, XMLError

#: How long a root may be held by those who look after dead roots, and how long to leave them alone at a time.
PASSING_TIMEOUT_S: Final = 5.0
PASSING_PAUSE_S: Final = 0.01

_open: Final[dict[tuple[int, int], Driver]] = {}


class Driver:
    """What is alive in one root. Every method must run on the loop thread of the process that opened it.

    It is also the root's last `Subdriver`, QEMU's.
    """

    name = "qemu"

    def __init__(self, root: Root, config: Config, of_the_host: Hosts) -> None:
        self.root = root
        self.config = config
        self.uri = make_uri(root.path)
        self.events = EventHub(root.log)
        self.ownership = Ownership(root, config)
        self.registry = Registry()
        self.hosts = of_the_host
        self.secrets = PrivateSecrets(self.events)
        self.storage = PrivateStorage(self.events, self.secrets)
        self.host = EmbedHost(root, config, self.storage)
        self.networks = PrivateNetworks(self.events, self.host)
        self.ids = Ids(root)
        self.recordings = Recordings(root, self.events)
        self.events.on_delivered = partial(_note_delivery, asyncio.get_running_loop(), self.recordings)
        self.server = Server(self)
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()
        self._connections = 0
        self._opened = asyncio.Event()
        self._closed = asyncio.Event()
        #: Cleans up the root's drivers, this one first.
        self._drivers = contextlib.AsyncExitStack()

    @classmethod
    async def open(cls, uri: str, options: Options | None = None) -> Driver:
        """Open the root that URI names, or join the driver that has it open in this process.

        Each call is a connection: it wants one `close()`.

        :raise NoConnect, InternalError, InvalidArgument, ConfigUnsupported: when the URI is not right; see `parse_uri`.
        :raise InvalidArgument: also when one of the root's drivers cannot honour it.
        :raise HostMissing, HostError: when it asks for a driver of the host's, and has none or is not let in.
        :raise ConfigSyntax, ConfigUnsupported: also when the configuration is not right, or not that of the driver
            that has the root open in this process; see `Config.read`.
        :raise SystemFailure: when the root cannot be made, or another process has it; names that process.
        """
        wanted, options = parse_uri(uri), options or Options()
        root = Root(wanted.root)
        while (driver := _open.get(root.identity)) is not None:
            if driver._loop is not asyncio.get_running_loop():
                driver._outlive_loop()
            elif driver._connections:
                await driver._join(wanted, options)
                return driver
            else:  # its first connection is being opened, or its last one closed
                await (driver._closed if driver._opened.is_set() else driver._opened).wait()
        config = Config.read(root.path, options.config, file=wanted.config)
        return await cls._first(root, config, Hosts(wanted.of_the_host))

    async def _join(self, wanted: Uri, options: Options) -> None:
        if wanted.config is not None or options.config is not None:
            self.config.require_same(Config.read(self.root.path, options.config, file=wanted.config))
        self._connections += 1
        try:
            await self.hosts.open(wanted.of_the_host)
        except BaseException:
            await self.close()
            raise

    @classmethod
    async def _first(cls, root: Root, config: Config, of_the_host: Hosts) -> Driver:
        driver = _open[root.identity] = cls(root, config, of_the_host)
        try:
            await _acquire(root)
            for warning in config.warnings:
                root.log.warning("%s", warning)
            drivers = [*driver._secondary(), driver]
            driver._drivers = await subdrivers.initialize(drivers, privileged=os.geteuid() == 0, root=root)
        except BaseException:
            driver._free()
            raise
        driver._connections = 1
        driver._opened.set()
        return driver

    def _secondary(self) -> list[subdrivers.Subdriver]:
        """Those that QEMU's calls, in the order in which they are initialised."""
        return [self.hosts, self.secrets, self.networks, self.storage]

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Take up the machines that are defined in ROOT, and those that run there already.

        What happened to them in the meantime is held for those who register now; see `EventHub.release`.
        """
        try:
            await self._take_up(root)
        except BaseException:
            await self.cleanup()
            raise

    async def _take_up(self, root: Root) -> None:
        self.ownership.admit()
        self.events.hold()
        for domain in persist.load(root):
            self.registry.add(Machine(self, domain, persistent=True))
        if not await reconnect.reconnect(self):
            self.events.release()
        belongings.sweep(self.root, (machine.uuid for machine in self.registry))
        self.ownership.recover({machine.name for machine in self.registry if machine.active})
        for machine in self.registry:
            if machine.running:
                self.ownership.adopt(machine.name, machine.running.stack)
        self.server.open()

    async def cleanup(self) -> None:
        """End all machines but those that are kept.

        :raise SystemFailure: when a machine cannot be ended.
        """
        await self.server.close()
        kept = [machine for machine in self.registry if machine.kept]
        if kept:
            self.events.stop()  # what is on record as not delivered is not delivered any more
        await asyncio.gather(*(stop.detach(machine.running) for machine in kept if machine.running))
        await self._destroy(m for m in self.registry if m not in kept and (m.active or m.starting))

    @property
    def is_last(self) -> bool:
        """Whether one connection is all it has."""
        return self._connections == 1

    async def close(self, client: Client | None = None) -> None:
        """End a connection, and the machines that CLIENT started with AUTO_DESTROY; with the last one, all machines.

        :raise SystemFailure: when a machine cannot be ended. The root is free again all the same.
        """
        self.require_own_process()
        self._connections -= 1
        if self._connections:
            await self._destroy(m for m in self.registry if client is not None and m.owner is client)
            return
        try:
            await self._drivers.aclose()
        finally:
            self._free()

    async def _destroy(self, machines: Iterable[Machine]) -> None:
        results = await asyncio.gather(*(machine.destroy() for machine in machines), return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        # One that ended by itself in the meantime is as good as destroyed.
        for error in errors:
            if not isinstance(error, OperationInvalid | NoDomain):
                raise error

    def _forget(self) -> None:
        self.events.close()
        self.server.forget()
        self.root.release()
        del _open[self.root.identity]

    def _outlive_loop(self) -> None:
        """The loop thread died, and with it every QEMU that is not to outlive it: hang up on those that are."""
        for machine in self.registry:
            if machine.running is not None:
                machine.running.socket.close()
        self._forget()

    def _free(self) -> None:
        self.ownership.close()
        self._forget()
        self._opened.set()
        self._closed.set()

    def require_own_process(self) -> None:
        """:raise OperationInvalid: in a forked child: QEMU's monitors are the parent's."""
        if self._pid != os.getpid():
            raise OperationInvalid(
                f"this root belongs to process {self._pid}, this is process {os.getpid()}: "
                "a forked child must open a root of its own"
            )

    def _require_open(self, function: str) -> None:
        """:raise InvalidConnection: when the last connection was closed while FUNCTION was under way."""
        if not self._connections:
            raise InvalidConnection(function, origin=ErrorDomain.NONE)

    def emit(self, machine: Machine, event: Event) -> None:
        """Tell the callbacks that EVENT happened to MACHINE, and put it on record until they are told."""
        self.events.emit(machine, event)
        if machine.kept:
            self.recordings.mark(machine.name)

    # Machines

    async def create_xml(self, xml: str, flags: int = 0, client: Client | None = None) -> Machine:
        """Start the domain that XML describes; unless its name and uuid are those of a persistent one, it is transient.

        :param client: who wants it; with START_AUTODESTROY its `close(client)` ends it, or without one the last.
        :raise ConfigUnsupported: when the start would call a driver that this client does not have; with the reason.
        """
        self.require_own_process()
        subdrivers.require(xml, client.uri if client else None)
        domain = await self._read(xml, validate=bool(flags & DomainCreateFlags.START_VALIDATE))
        self._require_open("virDomainCreateXML")
        machine = self.admit(domain, live=True)
        try:
            await machine.create(flags, client, domain)
        finally:
            self.dismiss(machine)
        return machine

    async def define_xml(self, xml: str, flags: int = 0) -> Machine:
        """Make the domain that XML describes persistent, without starting it."""
        domain = await self._read(xml, validate=bool(flags & DomainDefineFlags.DEFINE_VALIDATE))
        self._require_open("virDomainDefineXML")
        machine = self.admit(domain, live=False)
        try:
            defining.define(machine, domain)
        finally:
            self.dismiss(machine)
        return machine

    async def _read(self, xml: str, *, validate: bool = False) -> Completed:
        self.require_own_process()
        return await self.complete(
            definition.parse(xml, validate=validate, on_unknown=partial(logs.unknown, self.root.log))
        )

    async def complete(self, domain: Domain) -> Completed:
        """DOMAIN with nothing left open, for its emulator as it is now."""
        emulator = domain.devices.emulator or self.host.default_emulator(
            domain.os.arch or completing.DEFAULT_ARCHITECTURE
        )
        await self.host.prepare(emulator)
        return completing.complete(domain, self.host)

    def admit(self, domain: Completed, *, live: bool) -> Machine:
        """The machine that DOMAIN is to be: the one that has its name and uuid, or a new one.

        Whoever admits also dismisses.

        :param live: it is to be started, so it must not be active.
        """
        if domain.uuid is None:  # complete() gives every domain one
            raise XMLError(f"domain '{domain.name}' has no uuid")
        machine = self.registry.claim(domain.name, domain.uuid, live=live)
        if machine is None:
            machine = Machine(self, domain, persistent=False)
            self.registry.add(machine)
        return machine

    def dismiss(self, machine: Machine) -> None:
        """Forget MACHINE if nothing came of it."""
        if not machine.active and not machine.persistent:
            self.registry.remove(machine)

    def machines(self, flags: int = 0) -> list[Machine]:
        """Those that match; each group of FLAGS that is given must be met by one of its flags."""
        self.require_own_process()
        return [machine for machine in self.registry if matches(machine, flags)]

    def by_id(self, domain_id: int) -> Machine:
        """:raise NoDomain: when no running machine has this id."""
        self.require_own_process()
        return self.registry.by_id(domain_id)

    def by_name(self, name: str) -> Machine:
        """:raise NoDomain: when no machine has this name."""
        self.require_own_process()
        return self.registry.by_name(name)

    def by_uuid(self, domain_uuid: uuid.UUID) -> Machine:
        """:raise NoDomain: when no machine has this uuid."""
        self.require_own_process()
        return self.registry.by_uuid(domain_uuid)

    # The host

    async def native(self, xml: str) -> str:
        """The command line that would start the domain XML describes; what QEMU would inherit is numbered from 3."""
        domain = await self._read(xml)
        media.find_volumes(domain, self.host)
        planned = launch(domain, self.host)
        numbers = {descriptor.name: number for number, descriptor in enumerate(planned.descriptors, 3)}
        return command_line(planned.argv(numbers), dict(planned.environment)) + "\n"

    async def capabilities_xml(self) -> str:
        """`<capabilities>`: this host, and the guests its default emulator can run."""
        known = await self.host.prepare(self.host.default_emulator(platform.machine()))
        return capabilities_xml.host(known)

    async def domain_capabilities_xml(
        self, emulator: str | None, arch: str | None, machine: str | None, virttype: str | None
    ) -> str:
        """`<domainCapabilities>`: what a domain of this emulator and machine type can have.

        :raise InvalidArgument: when architecture, machine type or virtualization type are not what EMULATOR has.
        """
        arch = arch or platform.machine()
        capabilities_xml.require_arch(arch)
        known = await self.host.prepare(emulator or self.host.default_emulator(arch))
        return capabilities_xml.domain(known, arch, machine, virttype)


async def _acquire(root: Root) -> None:
    """Lock ROOT, once those are done who look after dead roots: a root may be opened again at once after a kill -9.

    :raise: as `Root.acquire` does.
    """
    deadline = time.monotonic() + PASSING_TIMEOUT_S
    while True:
        try:
            return root.acquire()
        except HeldInPassing:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(PASSING_PAUSE_S)


def _note_delivery(loop: asyncio.AbstractEventLoop, recordings: Recordings, subject: Subject) -> None:
    """On the thread of the callbacks: what a machine's record says of undelivered events is old."""
    if isinstance(subject, Machine):
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(recordings.mark, subject.name)


def _forget_in_child() -> None:
    """A child of fork has the objects; the roots stay the parent's."""
    for driver in _open.values():
        driver.root.forget()
        driver.server.forget()
        driver.networks.forget()
        for machine in driver.registry:
            if machine.running:
                machine.running.forget()
    _open.clear()


os.register_at_fork(after_in_child=_forget_in_child)
