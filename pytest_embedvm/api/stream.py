"""virStream: bytes from and to a console."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

from pytest_embedvm.api._object import LibvirtObject, answering, public
from pytest_embedvm.api.unsupported import unsupported
from pytest_embedvm.constants import ErrorDomain, StreamFlags
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.errors import InternalError, NoSupport, OperationInvalid

#: pytest shows the line that called, not these.
__tracebackhide__ = True

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")

#: libvirt-python: recvAll and sendAll move this many bytes at a time
PIECE: Final = 64 * 1024
#: libvirt: virStreamRecv, virStreamSend: a non-blocking stream would have to wait
WOULD_BLOCK: Final = -2


class Pipe:
    """A console link that can be asked for bytes without waiting. On the loop thread only."""

    def __init__(self, link: ConsoleLink) -> None:
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


def _feed(handler: Callable[[virStream, bytes, T], Any], stream: virStream, piece: bytes, opaque: T) -> None:
    answer = handler(stream, piece, opaque)
    if isinstance(answer, int) and answer < 0:
        raise RuntimeError(f"recvAll handler returned {answer}")
