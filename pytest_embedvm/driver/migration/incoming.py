"""A guest that comes from elsewhere: awaited by a QEMU of its own, then let run, or forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainJobOperation,
    DomainPausedReason,
    DomainRunningReason,
)
from pytest_embedvm.domain import definition
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import defining, nvram, persist, state, stop, subdrivers
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.descriptors import listen_unix, remove_socket
from pytest_embedvm.driver.loading import learn_channels, qemus_words, wait_loaded
from pytest_embedvm.driver.long_job import Stats
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.arriving import Arriving
from pytest_embedvm.driver.migration.peer import Arrival, Offer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import InternalError, OperationInvalid, OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine

#: Where the guest is awaited, in the machine's runtime directory.
SOCKET: Final = "migrate.sock"
#: How long the source may take to connect there.
CONNECT_TIMEOUT_S: Final = 30.0

#: Connections that last as long as a machine: what waits for its end.
_lodgers: Final[set[asyncio.Task[None]]] = set()


class Incoming:
    """The destination of one migration. Implements `Peer`; whoever holds one calls its methods one after the other."""

    def __init__(self, driver: Driver, client: Client | None = None, *, lodging: bool = False) -> None:
        """Await a guest in DRIVER.

        :param client: the connection that takes it; an AUTO_DESTROY guest ends with it.
        :param lodging: nobody else has the root open: that connection is closed when the guest has ended.
        """
        self._driver = driver
        self._client = client
        self._lodging = lodging
        self._stack = contextlib.AsyncExitStack()
        self._arriving = Arriving()
        self._offer: Offer | None = None
        self._machine: Machine | None = None
        self._running: Running | None = None
        self._definition: Completed | None = None
        self._receiving: asyncio.Task[None] | None = None
        self.finished = False

    # Prepare

    async def prepare(self, offer: Offer) -> Path | None:
        """See `Peer.prepare`.

        :raise OperationFailed: when its name or its uuid belongs to another domain here.
        :raise OperationInvalid: when it runs here already, or is not the first that is awaited.
        """
        if self._offer is not None:
            raise OperationInvalid("a guest is awaited already")
        self._offer = offer
        try:
            return await self._prepare(offer)
        except BaseException:
            await self.abandon()
            raise

    async def _prepare(self, offer: Offer) -> Path | None:
        self._driver.require_own_process()
        subdrivers.require(offer.xml, self._client.uri if self._client else None)
        domain = await self._driver.complete(definition.parse(offer.xml))
        self._definition = Completed(domain.copy())
        if offer.persistent_xml is not None:
            self._definition = await self._driver.complete(definition.parse(offer.persistent_xml))
        machine = self._machine = self._driver.admit(domain, live=True)
        self._stack.callback(self._driver.dismiss, machine)
        await self._stack.enter_async_context(machine.changing("migration in"))
        self._take_nvram(domain, offer)
        return None if offer.offline else await self._start(machine, domain)

    def _take_nvram(self, domain: Completed, offer: Offer) -> None:
        if offer.nvram is None:
            return
        self._driver.host.make_places(domain.name)
        undo = nvram.take_along(domain, Path(offer.nvram))
        self._stack.callback(self._unless_finished, undo)

    def _unless_finished(self, undo: Callable[[], object]) -> None:
        if not self.finished:
            undo()

    async def _start(self, machine: Machine, domain: Completed) -> Path:
        await machine.bring_up(domain, 0, self._client, wait=True, adaptation=self._arriving)
        self._running = running = machine.running
        if running is None:  # it ended between its start and now
            raise InternalError("guest unexpectedly quit")
        # libvirt: qemuMigrationDstPrepareActive: until it is here it ends with the connection
        machine.owner = self._client or self._driver
        machine.status = state.paused(DomainPausedReason.MIGRATION)
        machine.emit_lifecycle(DomainEventType.STARTED, DomainEventStartedDetailType.MIGRATED)
        machine.long_job.begin(DomainJobOperation.MIGRATION_IN)
        running.transfer = Transfer()
        await transfer.set_up(running, arriving=True)
        return self._listen(machine, running)

    def _listen(self, machine: Machine, running: Running) -> Path:
        path = machine.root.runtime_directory(running.id, machine.name) / SOCKET
        listener = listen_unix(path)
        listener.setblocking(False)
        self._receiving = asyncio.get_running_loop().create_task(self._receive(running, listener, path))
        return path

    async def _receive(self, running: Running, listener: socket.socket, path: Path) -> None:
        """Give QEMU the socket of the one who connects; nobody else can after that."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                sock, _ = await asyncio.get_running_loop().sock_accept(listener)
        except TimeoutError:
            raise OperationTimeout(f"the source did not connect to '{path}' within {CONNECT_TIMEOUT_S:g} s") from None
        finally:
            listener.close()
            remove_socket(path)
        await transfer.receive(running, sock)

    # Finish

    async def finish(self, stats: Stats) -> Arrival:
        """See `Peer.finish`.

        :raise InternalError: when QEMU ended, or could not load what came; with its own words.
        :raise OperationTimeout: when it takes too long.
        """
        offer, machine = self._offer, self._machine
        if offer is None or machine is None or self.finished:
            raise OperationInvalid("no guest is awaited")
        try:
            if not offer.offline:
                await self._let_run(machine, offer)
            elif self._definition is not None:
                self._define(machine, self._definition)
        except BaseException:
            await self.abandon()
            raise
        self.finished = True
        machine.owner = (self._client or self._driver) if offer.autodestroy else None
        if self._running:
            self._running.announce()
        machine.long_job.end(stats)
        await self._stack.aclose()
        return Arrival(name=machine.name, uuid=str(machine.uuid))

    async def _let_run(self, machine: Machine, offer: Offer) -> None:
        # libvirt: qemuMigrationDstFinishFresh
        running = await self._loaded(machine)
        self._arriving.take_places()
        await learn_channels(machine, running)
        if offer.persist and self._definition is not None:
            self._define(machine, self._definition)
        if offer.paused:
            machine.status = state.paused(DomainPausedReason.USER)
            machine.emit_lifecycle(DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.PAUSED)
        else:
            running.resuming = DomainRunningReason.MIGRATED
            await running.monitor.execute("cont")

    async def _loaded(self, machine: Machine) -> Running:
        running, receiving = self._running, self._receiving
        if running is None or running.transfer is None or receiving is None:
            raise OperationInvalid("no guest is awaited")
        await receiving
        await wait_loaded(machine, running, running.transfer)
        return running

    def _define(self, machine: Machine, domain: Completed) -> None:
        before = (machine.definition, machine.persistent, machine.redefined)
        defining.define(machine, domain)

        def undo() -> None:
            machine.definition, machine.persistent, machine.redefined = before
            if machine.persistent:
                persist.save(machine.root, machine.definition)
            else:
                persist.remove(machine.root, machine.name)

        self._stack.callback(self._unless_finished, undo)

    # Neither

    async def abandon(self) -> str:
        """See `Peer.abandon`."""
        words, ended_by_itself = "", True
        self.finished = False
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
        running = self._running
        if running is not None and not running.ended.is_set():
            ended_by_itself = not running.monitor.connected
            running.ending = state.NOT_ARRIVED
            running.process.send_signal(signal.SIGKILL)
            await running.wait_ended(stop.FORCED_TIMEOUT_S)
        if self._machine is not None:
            self._machine.long_job.end()
            if running is not None and ended_by_itself:
                words = qemus_words(self._machine, running)
        await self._stack.aclose()
        return words

    async def wait_lost(self) -> None:
        """See `Peer.wait_lost`."""
        if self._running is not None:
            await self._running.monitor.wait_closed()

    async def close(self) -> None:
        """See `Peer.close`. A root that was opened for the guest is open as long as that needs this process."""
        if not self._lodging:
            return
        if self.finished and self._running is not None and not self._running.kept:
            self._lodge(self._running)
        else:
            await self._driver.close(self._client)

    def _lodge(self, running: Running) -> None:
        """Keep the root open until the guest has ended."""

        async def wait_and_close() -> None:
            await running.ended.wait()
            await self._driver.close(self._client)

        task = asyncio.get_running_loop().create_task(wait_and_close())
        _lodgers.add(task)
        task.add_done_callback(_lodgers.discard)
