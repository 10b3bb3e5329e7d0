"""The frames of one network card: QEMU's `-netdev stream` over a unix socket, on the loop.

Each frame comes after its length in four bytes (QEMU: net/stream.c, net_socket_rs_init).
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable
from typing import Final

#: The most that is read at once, so that one busy card does not keep the loop from the others.
READ_BYTES: Final = 256 * 1024
#: How much may wait for a card that does not take it; what comes then is lost, as on a wire.
QUEUE_BYTES: Final = 4 * 1024 * 1024
#: QEMU's NET_BUFSIZE: what claims to be longer is no frame, and nothing after it can be read.
LONGEST_FRAME: Final = 4096 + 65536
_LENGTH: Final = 4


class Cable:
    """One end of a connection to a card. Must be used on the loop thread."""

    def __init__(
        self, sock: socket.socket, on_frames: Callable[[list[bytes]], None], on_lost: Callable[[], None]
    ) -> None:
        """Take SOCK, which is connected.

        :param on_frames: called with what came in, whole frames in their order.
        :param on_lost: called once when the other end hangs up.
        """
        sock.setblocking(False)
        self._socket = sock
        self._on_frames, self._on_lost = on_frames, on_lost
        self._loop = asyncio.get_running_loop()
        self._in = bytearray()
        self._out = bytearray()
        #: Frames that the card did not take in time.
        self.dropped = 0
        self._loop.add_reader(sock, self._readable)

    def send(self, frames: Iterable[bytes]) -> None:
        """Have FRAMES go out; never waits. After `close` they are lost."""
        if self._socket.fileno() < 0:
            return
        idle = not self._out
        for frame in frames:
            if len(self._out) > QUEUE_BYTES:
                self.dropped += 1
                continue
            self._out += len(frame).to_bytes(_LENGTH, "big")
            self._out += frame
        if idle and self._out:
            self._writable()
            if self._out and self._socket.fileno() >= 0:
                self._loop.add_writer(self._socket, self._writable)

    def _writable(self) -> None:
        try:
            sent = self._socket.send(self._out)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._lost()
            return
        del self._out[:sent]
        if not self._out:
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost()
            return
        self._in += data
        frames = self._cut()
        if frames:
            self._on_frames(frames)

    def _cut(self) -> list[bytes]:
        """The whole frames of what was read."""
        frames, at = [], 0
        with memoryview(self._in) as view:
            while at + _LENGTH <= len(view):
                length = int.from_bytes(view[at : at + _LENGTH], "big")
                if length > LONGEST_FRAME:
                    self._lost()  # no frame begins here, and none can be found after it
                    break
                if at + _LENGTH + length > len(view):
                    break
                frames.append(bytes(view[at + _LENGTH : at + _LENGTH + length]))
                at += _LENGTH + length
        del self._in[:at]
        return frames

    def _lost(self) -> None:
        self.close()
        self._on_lost()

    def forget(self) -> None:
        """In a forked child: close the copy of the socket, and leave the parent's loop alone."""
        if (descriptor := self._socket.detach()) >= 0:
            os.close(descriptor)

    def close(self) -> None:
        """Hang up; a second call does nothing."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
