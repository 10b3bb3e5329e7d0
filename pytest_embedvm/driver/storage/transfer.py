"""A volume's bytes as an async pipe, in and out, with or without its holes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import OperationInvalid, SystemFailure
from pytest_embedvm.loop import to_its_end

T = TypeVar("T")

STREAMS: Final = ErrorDomain.STREAMS


class _Transfer:
    """An open file, and where in it the stream is. Whoever closes it waits for the piece that is on its way."""

    def __init__(self, path: str, offset: int, length: int | None, flags: int, *, sparse: bool) -> None:
        try:
            # libvirt: virFDStreamOpenFileInternal
            self._descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise SystemFailure(f"Unable to open stream for '{path}': {error.strerror}", origin=STREAMS) from error
        self._at, self._left, self._sparse = offset, length, sparse
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Close the file; a second call does nothing."""
        async with self._turn:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self._descriptor = -1
                await self._over()

    async def _over(self) -> None:
        """It is closed."""

    def _require_open(self) -> None:
        if self._descriptor < 0:
            raise OperationInvalid("stream is not open", origin=STREAMS)

    def _passed(self, size: int) -> None:
        self._at += size
        if self._left is not None:
            self._left -= size

    async def _do(self, what: str, work: Callable[[], T]) -> T:
        """WORK, which may block, off the loop, and to its end: it has the descriptor."""
        try:
            return await to_its_end(asyncio.to_thread(work))
        except OSError as error:
            raise SystemFailure(f"cannot {what} stream: {error.strerror}", origin=STREAMS) from error


class Download(_Transfer):
    """Out of a volume."""

    def __init__(self, path: str, offset: int, length: int | None, *, sparse: bool) -> None:
        super().__init__(path, offset, length, os.O_RDONLY, sparse=sparse)

    async def read(self, size: int) -> bytes:
        """At most SIZE bytes, b"" at the end; of a sparse stream, none from both sides of a hole's edge."""
        async with self._turn:
            self._require_open()
            wanted = size if self._left is None else min(size, self._left)
            data = await self._do("read from", lambda: self._pread(wanted))
            self._passed(len(data))
            return data

    def _pread(self, size: int) -> bytes:
        if self._sparse:
            hole = self._hole()
            size = min(size, hole or self._edge() - self._at)
        return os.pread(self._descriptor, size, self._at)

    async def write(self, data: bytes) -> int:
        """:raise OperationInvalid: always: it is read from."""
        raise OperationInvalid("cannot write to stream: it is a download", origin=STREAMS)

    async def hole(self) -> int:
        """How long the hole is that the stream stands in; 0 where there is none, or holes are not told."""
        async with self._turn:
            self._require_open()
            return self._hole() if self._sparse else 0

    async def skip(self) -> int:
        """Pass the hole, and say how long it was.

        :raise OperationInvalid: when holes are not told.
        """
        async with self._turn:
            self._require_open()
            if not self._sparse:
                # libvirt: virNetClientStreamRecvHole
                raise OperationInvalid("Holes are not supported with this stream", origin=STREAMS)
            length = self._hole()
            self._passed(length)
            return length

    def _hole(self) -> int:
        end = os.fstat(self._descriptor).st_size
        if self._left is not None:
            end = min(end, self._at + self._left)
        try:
            data = os.lseek(self._descriptor, self._at, os.SEEK_DATA)
        except OSError:  # nothing but a hole comes, or nothing at all
            data = end
        return max(0, min(data, end) - self._at)

    def _edge(self) -> int:
        """Where the next hole begins, if the stream stands in none."""
        try:
            return os.lseek(self._descriptor, self._at, os.SEEK_HOLE)
        except OSError:  # it is at the end
            return self._at


class Upload(_Transfer):
    """Into a volume. `over` is called once it is closed."""

    def __init__(
        self, path: str, offset: int, length: int | None, over: Callable[[], Awaitable[None]], *, sparse: bool
    ) -> None:
        super().__init__(path, offset, length, os.O_WRONLY, sparse=sparse)
        self._then = over

    async def _over(self) -> None:
        await self._then()

    async def read(self, size: int) -> bytes:
        """:raise OperationInvalid: always: it is written to."""
        raise OperationInvalid("cannot read from stream: it is an upload", origin=STREAMS)

    async def write(self, data: bytes) -> int:
        """Write DATA, or as much of it as there is room for; how much that was.

        :raise SystemFailure: when there is no room left, or it cannot be written.
        """
        async with self._turn:
            self._require_open()
            if data and self._left == 0:
                # libvirt: virFDStreamWrite
                raise SystemFailure("cannot write to stream: No space left on device", origin=STREAMS)
            piece = data if self._left is None else data[: self._left]
            size = await self._do("write to", lambda: os.pwrite(self._descriptor, piece, self._at))
            self._passed(size)
            return size

    async def put_hole(self, length: int) -> None:
        """Pass LENGTH bytes, which read as zeros; what was behind is cut off.

        :raise OperationInvalid: when holes are not taken.
        """
        async with self._turn:
            self._require_open()
            if not self._sparse:
                # libvirt: virNetClientStreamSendHole
                raise OperationInvalid("Skipping is not supported with this stream", origin=STREAMS)
            # libvirt: virFDStreamThreadDoWrite; cut off first, so that the hole is one
            await self._do("write to", partial(self._make_hole, length))
            self._passed(length)

    def _make_hole(self, length: int) -> None:
        os.ftruncate(self._descriptor, self._at)
        os.ftruncate(self._descriptor, self._at + length)
