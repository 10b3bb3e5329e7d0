"""What host and guest say to each other on the exec channel: frames, of any bytes.

A frame is its kind, the number of the command it is about, its size (9 bytes, little-endian) and its content; those to
the guest end with a mark. The guest takes nothing before the first SYNC of who is connected, and answers it with the
same token: what comes before that answer belongs to somebody else. `image/native/exec_server.source` is the other end.

| to the guest | |
|---|---|
| SYNC | a token; what runs for this channel is forgotten, and runs on |
| WORDS | a piece of the command's words, each with a NUL behind it |
| INPUT | a piece of its standard input |
| RUN | that was all |
| KILL | end it with its descendants |

| to the host | |
|---|---|
| SYNC | the token |
| HELLO | the server has started |
| STDOUT, STDERR | a piece of what it wrote |
| EXITED | its status as wait(2) has it: it has ended, and nobody has its outputs open |
| FAILED | an errno: it could not be started |
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

#: The most that a frame holds.
PIECE: Final = 32768
TOKEN_BYTES: Final = 16
_HEADER: Final = struct.Struct("<BII")
_MARK: Final = b"\xff"

#: Fills up whatever frame the guest has half of, which then has no mark.
PADDING: Final = bytes(_HEADER.size + PIECE + 1)


class Kind(enum.IntEnum):
    SYNC = ord("S")
    WORDS = ord("W")
    INPUT = ord("I")
    RUN = ord("R")
    KILL = ord("K")
    HELLO = ord("H")
    STDOUT = ord("O")
    STDERR = ord("E")
    EXITED = ord("X")
    FAILED = ord("F")


@dataclass(frozen=True)
class Frame:
    kind: Kind
    number: int
    data: bytes

    @property
    def value(self) -> int:
        """The status or errno that it holds.

        :raise Garbled: when it holds none.
        """
        value = int.from_bytes(self.data, "little")
        if len(self.data) != 4 or value >= 1 << 16:
            raise Garbled
        return value


class Garbled(Exception):
    """What came from the guest is no frame."""


def frame(kind: Kind, number: int, data: bytes = b"") -> bytes:
    """To the guest."""
    return _HEADER.pack(kind, number, len(data)) + data + _MARK


def pieces(kind: Kind, number: int, data: bytes) -> bytes:
    """DATA in as many frames as it takes."""
    return b"".join(frame(kind, number, data[start : start + PIECE]) for start in range(0, len(data), PIECE))


class Frames:
    """What came from the guest, from the answer to a SYNC on."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._answer: bytes | None = None
        self.in_step = False

    def expect(self, token: bytes) -> None:
        """A SYNC with TOKEN goes out: nothing counts until it is answered."""
        self._answer = _HEADER.pack(Kind.SYNC, 0, len(token)) + token
        self.in_step = False

    def lose(self) -> None:
        """What comes does not count any more, until a SYNC that is still to go out is answered."""
        self._answer = None
        self.in_step = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """What has come whole with DATA.

        :raise Garbled: when that is no frame.
        """
        self._data += data
        if not self.in_step:
            self._search()
        start = 0
        while self.in_step and len(self._data) - start >= _HEADER.size:
            kind, number, size = _HEADER.unpack_from(self._data, start)
            if size > PIECE or kind not in Kind.__members__.values():
                raise Garbled
            end = start + _HEADER.size + size
            if end > len(self._data):
                break
            yield Frame(Kind(kind), number, bytes(self._data[start + _HEADER.size : end]))
            start = end
        del self._data[:start]

    def _search(self) -> None:
        found = -1 if self._answer is None else self._data.find(self._answer)
        if self._answer is None or found < 0:
            del self._data[: -(_HEADER.size + TOKEN_BYTES)]
            return
        del self._data[: found + len(self._answer)]
        self.in_step = True
