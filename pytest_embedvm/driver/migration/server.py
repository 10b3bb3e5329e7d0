"""The door of an open root for guests that come from other processes of the same user: `run/qemu/driver.sock`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.driver.descriptors import listen_unix, remove_socket
from pytest_embedvm.driver.migration import wire
from pytest_embedvm.driver.migration.incoming import Incoming
from pytest_embedvm.driver.migration.peer import Offer
from pytest_embedvm.errors import EmbedError, InvalidArgument, OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver

#: How long who connects may take to say what it wants.
FIRST_MESSAGE_TIMEOUT_S: Final = 10.0


class Server:
    """Takes guests for DRIVER, one per connection."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._listener: socket.socket | None = None
        self._visits: set[asyncio.Task[None]] = set()

    @property
    def _path(self) -> Path:
        return self._driver.root.driver_socket

    def open(self) -> None:
        """Be there for others.

        :raise SystemFailure: when the socket cannot be bound.
        """
        listener = self._listener = listen_unix(self._path)
        listener.setblocking(False)
        asyncio.get_running_loop().add_reader(listener.fileno(), self._accept)

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            sock, _ = self._listener.accept()
        except OSError:  # it hung up before we looked, or we have no descriptor left
            return
        task = asyncio.get_running_loop().create_task(self._receive(sock))
        self._visits.add(task)
        task.add_done_callback(self._visits.discard)

    async def _receive(self, sock: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=wire.LINE_BYTES)
        try:
            wire.require_same_user(sock)
            await _Visit(self._driver, reader, writer).run()
        except (EmbedError, OSError) as error:
            self._driver.root.log.warning("a guest did not arrive: %s", error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def close(self) -> None:
        """Be there no more; guests that are on their way are sent back."""
        if self._listener is None:
            return
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self.forget()
        remove_socket(self._path)
        for visit in self._visits:
            visit.cancel()
        await asyncio.gather(*self._visits, return_exceptions=True)

    def forget(self) -> None:
        """Close the socket; in a forked child it stays the parent's."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None


class _Visit:
    """One connection: one guest."""

    def __init__(self, driver: Driver, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._incoming = Incoming(driver)
        self._reader = reader
        self._writer = writer

    async def run(self) -> None:
        """Answer until the other side hangs up."""
        try:
            message = await self._first()
            while message is not None:
                await wire.write(self._writer, await self._answer(message))
                message = await wire.read(self._reader)
        finally:
            if not self._incoming.finished:
                await self._incoming.abandon()

    async def _first(self) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(FIRST_MESSAGE_TIMEOUT_S):
                return await wire.read(self._reader)
        except TimeoutError:
            raise OperationTimeout(f"nothing was said within {FIRST_MESSAGE_TIMEOUT_S:g} s") from None

    async def _answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return {"return": await self._carry_out(message)}
        except EmbedError as error:
            return {"error": wire.spell_error(error)}

    async def _carry_out(self, message: Mapping[str, Any]) -> dict[str, Any]:
        if message.get("version") != wire.VERSION:
            raise InvalidArgument(f"version {message.get('version')!r} is spoken there, {wire.VERSION} here")
        arguments = message.get("arguments")
        match message.get("call"):
            case "prepare":
                place = await self._incoming.prepare(wire.read_fields(Offer, arguments))
                return {"place": None if place is None else str(place)}
            case "finish":
                return wire.spell_fields(await self._incoming.finish(_figures(arguments)))
            case "abandon":
                return {"words": await self._incoming.abandon()}
            case other:
                raise InvalidArgument(f"nobody knows the call {other!r}")


def _figures(arguments: object) -> dict[str, int | str]:
    if not isinstance(arguments, dict) or not all(isinstance(value, int | str) for value in arguments.values()):
        raise InvalidArgument("the figures of a migration must be numbers and words")
    return arguments
