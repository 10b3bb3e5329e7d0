"""A console of a running domain as an async pipe of bytes."""

from __future__ import annotations

import asyncio
import os
import termios
import tty
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.errors import SystemFailure

#: How much the guest may write ahead of a reader before it has to wait.
BUFFER_BYTES: Final = 1024 * 1024
#: How long a guest that does not read may keep a console open that is being closed.
FLUSH_TIMEOUT_S: Final = 1.0


class ConsoleLink:
    """One open console. `on_close` is called once, whoever closes it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        source: asyncio.BaseTransport,
        on_close: Callable[[], object],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._source = source
        self._on_close = on_close
        self._closed = False
        self._cut = False

    @classmethod
    async def open_unix(cls, path: Path, on_close: Callable[[], object]) -> ConsoleLink:
        """Connect to the socket at PATH on which QEMU listens.

        :raise SystemFailure: when it does not.
        """
        sock = connect_unix(path)
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=BUFFER_BYTES)
        return cls(reader, writer, writer.transport, on_close)

    @classmethod
    async def open_terminal(cls, path: Path, on_close: Callable[[], object]) -> ConsoleLink:
        """Open the pseudo-terminal at PATH whose master QEMU holds; bytes pass as they are.

        :raise SystemFailure: when it cannot be opened.
        """
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFailure(f"unable to open tty {path}: {error.strerror}") from error
        try:
            tty.setraw(descriptor)
        except termios.error as error:
            os.close(descriptor)
            raise SystemFailure(f"unable to set up tty {path}: {error.args[-1]}") from error
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=BUFFER_BYTES)
        writing = asyncio.StreamReaderProtocol(asyncio.StreamReader())  # for its flow control; it reads nothing
        # Each transport closes its own descriptor.
        source, _ = await loop.connect_read_pipe(
            partial(asyncio.StreamReaderProtocol, reader), os.fdopen(os.dup(descriptor), "rb", buffering=0)
        )
        transport, _ = await loop.connect_write_pipe(lambda: writing, os.fdopen(descriptor, "wb", buffering=0))
        return cls(reader, asyncio.StreamWriter(transport, writing, None, loop), source, on_close)

    async def read(self, size: int) -> bytes:
        """At least one byte and at most SIZE, waiting for the guest; b"" when the console is closed."""
        try:
            return await self._reader.read(size)
        except OSError:  # a terminal whose master is gone answers EIO, a socket may be reset
            return b""

    async def write(self, data: bytes) -> int:
        """Write DATA, waiting while the guest does not read; how much that was.

        :raise SystemFailure: when the console is closed.
        """
        if self._closed or self._writer.is_closing():
            raise SystemFailure("cannot write to stream: Broken pipe")
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise SystemFailure(f"cannot write to stream: {error.strerror}") from error
        if self._cut:
            raise SystemFailure("cannot write to stream: Broken pipe")
        return len(data)

    async def close(self) -> None:
        """Hang up; a reader that waits gets b"", and what the guest does not read in time is lost.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._on_close()
        self._source.close()  # which ends what the reader waits for
        self._writer.close()
        try:
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._writer.wait_closed()
        except TimeoutError:
            self._cut = True
            self._writer.transport.abort()
        except OSError:
            pass  # the other end was first
