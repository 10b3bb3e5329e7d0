"""virStream: bytes from and to a console, or a volume."""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import LibvirtObject, answering, public
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import ErrorDomain, StreamFlags, StreamRecvFlagsValues
from pytest_embedvm.driver.storage.transfer import Download, Upload
from pytest_embedvm.errors import InternalError, InvalidCall, NoSupport, OperationInvalid

#: pytest shows the line that called, not these.
__tracebackhide__ = True

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")
P = TypeVar("P", bytes, int)

#: libvirt-python: recvAll and sendAll move this many bytes at a time
PIECE: Final = 64 * 1024
#: libvirt: virStreamRecv, virStreamSend: a non-blocking stream would have to wait
WOULD_BLOCK: Final = -2
#: libvirt: virStreamRecvFlags: a hole comes
IN_HOLE: Final = -3


class Link(Protocol):
    """What is open behind a stream: a console, a volume."""

    async def read(self, size: int) -> bytes:
        """At least one byte and at most SIZE; b"" at the end."""

    async def write(self, data: bytes) -> int:
        """Write DATA, or some of it; how much that was."""

    async def close(self) -> None:
        """Close it; a second call does nothing."""


class Pipe:
    """A link that can be asked for bytes without waiting. On the loop thread only."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._left = b""
        self._reading: asyncio.Task[bytes] | None = None

    async def receive(self, size: int, *, wait: bool) -> bytes | None:
        """Up to SIZE bytes, b"" at the end; None when there are none now and WAIT is false.

        A receive that is cancelled loses nothing: the next one goes on with the same read.
        """
        while not self._left:
            if self._reading is None:
                self._reading = asyncio.create_task(self._link.read(PIECE))
            reading = self._reading
            done, _ = await asyncio.wait({reading}, timeout=None if wait else 0)
            if not done:
                return None
            if reading.cancelled():
                raise OperationInvalid("stream is not open", origin=ErrorDomain.STREAMS)
            if self._reading is reading:  # else another receive waited for it too, and was first
                self._reading, self._left = None, reading.result()
            if not reading.result():
                return b""
        piece, self._left = self._left[:size], self._left[size:]
        return piece

    async def send(self, data: bytes) -> int:
        return await self._link.write(data)

    async def in_hole(self) -> bool:
        """Whether a hole comes next, of a link that tells holes."""
        ahead = self._left or self._reading is not None
        return not ahead and isinstance(self._link, Download) and await self._link.hole() > 0

    async def skip_hole(self) -> int:
        """Pass the hole that comes next; how long it was, 0 where there is none."""
        if not isinstance(self._link, Download):
            # libvirt: virNetClientStreamRecvHole
            raise OperationInvalid("Holes are not supported with this stream", origin=ErrorDomain.STREAMS)
        return 0 if self._left or self._reading is not None else await self._link.skip()

    async def put_hole(self, length: int) -> None:
        """Pass LENGTH bytes, which read as zeros."""
        if not isinstance(self._link, Upload):
            # libvirt: virNetClientStreamSendHole
            raise OperationInvalid("Skipping is not supported with this stream", origin=ErrorDomain.STREAMS)
        await self._link.put_hole(length)

    async def close(self) -> None:
        """Close the link; a receive that waits ends with an error."""
        if self._reading is not None:
            self._reading.cancel()
        await self._link.close()


@unsupported
class virStream(LibvirtObject):
    """A stream of a connection; `virDomain.openConsole` puts a console behind it."""

    def __init__(self, conn: virConnect, _obj: StreamFlags | None = None) -> None:
        self._conn = conn
        self._session = conn._session
        self._blocking = _obj is None or StreamFlags.NONBLOCK not in _obj
        self._pipe: Pipe | None = None

    def connect(self) -> virConnect:
        """The connection the stream belongs to."""
        return self._conn

    def _attach(self, pipe: Pipe) -> None:
        self._pipe = pipe

    def _opened(self, function: str) -> Pipe:
        if self._pipe is None:
            raise NoSupport(function, origin=ErrorDomain.STREAMS)  # libvirt: a stream nobody opened has no driver
        return self._pipe

    @public("virStreamRecv", origin=ErrorDomain.STREAMS)
    def recv(self, nbytes: int) -> bytes | int:
        """Up to NBYTES bytes, b"" at the end. Waits for the first one; a non-blocking stream returns -2 instead.

        :raise libvirtError: NO_SUPPORT when nothing is open behind the stream; OPERATION_INVALID when
            another thread ends it.
        """
        received = self._run(self._opened("virStreamRecv").receive(nbytes, wait=self._blocking))
        return WOULD_BLOCK if received is None else received

    @public("virStreamSend", origin=ErrorDomain.STREAMS)
    def send(self, data: bytes) -> int:
        """Send DATA; the number of bytes that were taken.

        :raise libvirtError: NO_SUPPORT when nothing is open behind the stream.
        """
        return self._run(self._opened("virStreamSend").send(bytes(data)))

    @public("virStreamRecvFlags", origin=ErrorDomain.STREAMS)
    def recvFlags(self, nbytes: int, flags: int = 0) -> bytes | int:
        """Like `recv`; with VIR_STREAM_RECV_STOP_AT_HOLE -3 where a hole comes, which `recvHole` passes.

        :raise libvirtError: as `recv`.
        """
        allowed = StreamRecvFlagsValues.RECV_STOP_AT_HOLE
        checked = arguments.known(flags, allowed, "virStreamRecvFlags", ErrorDomain.STREAMS)
        pipe = self._opened("virStreamRecvFlags")

        async def receive() -> bytes | int:
            if checked and await pipe.in_hole():
                return IN_HOLE
            received = await pipe.receive(nbytes, wait=self._blocking)
            return WOULD_BLOCK if received is None else received

        return self._run(receive())

    @public("virStreamRecvHole", origin=ErrorDomain.STREAMS)
    def recvHole(self, flags: int = 0) -> int:
        """Pass the hole that comes next: the number of bytes in it, 0 where there is none.

        :raise libvirtError: OPERATION_INVALID when the stream tells no holes.
        """
        arguments.known(flags, StreamFlags(0), "virStreamRecvHole", ErrorDomain.STREAMS)
        return self._run(self._opened("virStreamRecvHole").skip_hole())

    @public("virStreamSendHole", origin=ErrorDomain.STREAMS)
    def sendHole(self, length: int, flags: int = 0) -> int:
        """Send a hole of LENGTH bytes.

        :raise libvirtError: OPERATION_INVALID when the stream takes no holes.
        """
        arguments.known(flags, StreamFlags(0), "virStreamSendHole", ErrorDomain.STREAMS)
        size = operator.index(length)
        if size < 0:
            raise InvalidCall("length in virStreamSendHole must be zero or greater", origin=ErrorDomain.STREAMS)
        self._run(self._opened("virStreamSendHole").put_hole(size))
        return 0

    @public("virStreamFinish", origin=ErrorDomain.STREAMS)
    def finish(self) -> int:
        """End the stream in order.

        :raise libvirtError: NO_SUPPORT when nothing is open behind the stream.
        """
        self._end(self._opened("virStreamFinish"))
        return 0

    @public("virStreamAbort", origin=ErrorDomain.STREAMS)
    def abort(self) -> int:
        """End the stream at once; nothing to do when it is not open."""
        if self._pipe is not None:
            self._end(self._pipe)
        return 0

    def _end(self, pipe: Pipe) -> None:
        self._pipe = None
        self._run(self._session.let_go(pipe))

    def recvAll(self, handler: Callable[[virStream, bytes, T], Any], opaque: T) -> None:
        """Give HANDLER(stream, data, opaque) each piece until the end.

        The stream is aborted when HANDLER raises, or returns a negative number.

        :raise libvirtError: when the stream is non-blocking, or cannot be read.
        :raise RuntimeError: when HANDLER returns a negative number.
        """
        while piece := self._all("recvAll", self.recv(PIECE)):
            self._or_abort(functools.partial(_feed, handler, self, piece, opaque))

    def sendAll(self, handler: Callable[[virStream, int, T], bytes], opaque: T) -> None:
        """Send what HANDLER(stream, nbytes, opaque) returns, until that is empty.

        The stream is aborted when HANDLER raises.

        :raise libvirtError: when the stream is non-blocking, or cannot be written.
        """
        self._all("sendAll", b"" if self._blocking else WOULD_BLOCK)
        while piece := self._or_abort(lambda: handler(self, PIECE, opaque)):
            while piece:
                piece = piece[self.send(piece) :]

    def sparseRecvAll(
        self,
        handler: Callable[[virStream, bytes, T], Any],
        holeHandler: Callable[[virStream, int, T], Any],
        opaque: T,
    ) -> None:
        """Give HANDLER(stream, data, opaque) each piece, HOLEHANDLER(stream, length, opaque) each hole.

        The stream is aborted when one of them raises, or returns a negative number.

        :raise libvirtError: when the stream is non-blocking, or cannot be read.
        :raise RuntimeError: when a handler returns a negative number.
        """
        while (piece := self.recvFlags(PIECE, StreamRecvFlagsValues.RECV_STOP_AT_HOLE)) != b"":
            if piece == IN_HOLE:
                self._or_abort(functools.partial(_feed, holeHandler, self, self.recvHole(), opaque))
            else:
                self._or_abort(functools.partial(_feed, handler, self, self._all("sparseRecvAll", piece), opaque))

    def sparseSendAll(
        self,
        handler: Callable[[virStream, int, T], bytes],
        holeHandler: Callable[[virStream, T], tuple[bool, int]],
        skipHandler: Callable[[virStream, int, T], Any],
        opaque: T,
    ) -> None:
        """Send what HANDLER(stream, nbytes, opaque) returns, until that is empty, and the holes in between.

        HOLEHANDLER(stream, opaque) says whether data come next, and how many bytes of them or of a hole;
        SKIPHANDLER(stream, length, opaque) is to pass a hole. The stream is aborted when one of them raises.

        :raise libvirtError: when the stream is non-blocking, or takes no holes.
        :raise RuntimeError: when SKIPHANDLER returns a negative number.
        """
        self._all("sparseSendAll", b"" if self._blocking else WOULD_BLOCK)
        while True:
            in_data, length = self._or_abort(lambda: holeHandler(self, opaque))
            if not in_data and length > 0:
                self.sendHole(length)
                self._or_abort(functools.partial(_feed, skipHandler, self, length, opaque))
                continue
            piece = self._or_abort(functools.partial(handler, self, min(PIECE, length), opaque))
            if not piece:
                return
            while piece:
                piece = piece[self.send(piece) :]

    def _all(self, name: str, received: bytes | int) -> bytes:
        if isinstance(received, int):
            with answering():
                raise InternalError(f"cannot use {name} with nonblocking stream", origin=ErrorDomain.STREAMS)
        return received

    def _or_abort(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except BaseException:
            self.abort()
            raise


def _feed(handler: Callable[[virStream, P, T], Any], stream: virStream, piece: P, opaque: T) -> None:
    answer = handler(stream, piece, opaque)
    if isinstance(answer, int) and answer < 0:
        raise RuntimeError(f"recvAll handler returned {answer}")
