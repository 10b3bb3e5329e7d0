"""The destination of a migration by its URI: a root that another process has open, or one that nobody has."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.long_job import Stats
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.migration import wire
from pytest_embedvm.driver.migration.incoming import Incoming
from pytest_embedvm.driver.migration.outgoing import Plan, migrate
from pytest_embedvm.driver.migration.peer import Arrival, Offer, Peer
from pytest_embedvm.driver.roots.root import driver_socket
from pytest_embedvm.driver.uri import parse_uri
from pytest_embedvm.errors import InternalError, InvalidCall, OperationTimeout, SystemFailure

#: How long the other process may take: to start a QEMU whose capabilities nobody knows yet; to let a guest run
#: that is there; to end one.
PREPARE_TIMEOUT_S: Final = 120.0
FINISH_TIMEOUT_S: Final = 120.0
ABANDON_TIMEOUT_S: Final = 60.0


async def to_driver(machine: Machine, driver: Driver, client: Client, plan: Plan) -> Arrival:
    """Move MACHINE to another root of this process, which CLIENT has open; see `migration.migrate`.

    :raise InternalError: when it is the root where it runs.
    """
    if driver is machine.driver:
        # libvirt: qemuMigrationCookieXMLParse, which knows hosts only
        raise InternalError(f"Attempt to migrate guest to the same host {driver.root.path}")
    return await migrate(machine, Incoming(driver, client), plan)


async def to_uri(machine: Machine, uri: str, plan: Plan) -> Arrival:
    """Move MACHINE to the root that URI names; see `migration.migrate`.

    :raise InvalidCall: when it is the root where it runs.
    """
    if _identity(parse_uri(uri).root) == machine.root.identity:
        # libvirt: virDomainMigrateUnmanagedCheckCompat, which knows hosts only
        raise InvalidCall("Attempt to migrate guest to the same host")
    peer = await _reach(uri, Options(keep_running=machine.kept))
    try:
        return await migrate(machine, peer, plan)
    finally:
        await peer.close()


def _identity(root: Path) -> tuple[int, int] | None:
    """What all spellings of ROOT share; None while it does not exist."""
    try:
        status = root.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def _reach(uri: str, options: Options) -> Peer:
    """The root that URI names, as a destination: it is opened, with OPTIONS, if nobody has it open.

    :raise NoConnect, InternalError, InvalidArgument, ConfigUnsupported: when the URI is not right; see `parse_uri`.
    :raise SystemFailure: when the root cannot be had.
    """
    path = driver_socket(parse_uri(uri).root)
    try:
        sock = connect_unix(path)
    except SystemFailure:
        return Incoming(await Driver.open(uri, options), Client(options), lodging=True)
    return await Remote.connect(sock)


class Remote:
    """An `Incoming` behind a socket. Implements `Peer`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._gone = False

    @classmethod
    async def connect(cls, sock: socket.socket) -> Remote:
        """:raise SystemFailure: when it is another user's."""
        try:
            wire.require_same_user(sock)
        except SystemFailure:
            sock.close()
            raise
        sock.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=wire.LINE_BYTES))

    async def prepare(self, offer: Offer) -> Path | None:
        """See `Peer.prepare`."""
        place = (await self._call("prepare", wire.spell_fields(offer), PREPARE_TIMEOUT_S)).get("place")
        return None if place is None else Path(str(place))

    async def finish(self, stats: Stats) -> Arrival:
        """See `Peer.finish`."""
        return wire.read_fields(Arrival, await self._call("finish", dict(stats), FINISH_TIMEOUT_S))

    async def abandon(self) -> str:
        """See `Peer.abandon`. A process that is gone has taken its QEMU along."""
        if self._gone:
            return ""
        return str((await self._call("abandon", {}, ABANDON_TIMEOUT_S)).get("words", ""))

    async def wait_lost(self) -> None:
        """See `Peer.wait_lost`."""
        # Nothing comes unasked: who can read has reached the end.
        with contextlib.suppress(ConnectionError):
            await self._reader.read(1)
        self._gone = True

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _call(self, name: str, arguments: dict[str, Any], timeout: float) -> dict[str, Any]:
        message = {"version": wire.VERSION, "call": name, "arguments": arguments}
        try:
            async with asyncio.timeout(timeout):
                await wire.write(self._writer, message)
                answer = await wire.read(self._reader)
        except TimeoutError:
            raise OperationTimeout(f"the destination did not answer '{name}' within {timeout:g} s") from None
        if answer is None:
            self._gone = True
            raise wire.hung_up()
        if "error" in answer:
            raise wire.read_error(answer["error"])
        result = answer.get("return")
        if not isinstance(result, dict):
            raise InternalError(f"the destination said something unexpected: {answer!r}")
        return result
