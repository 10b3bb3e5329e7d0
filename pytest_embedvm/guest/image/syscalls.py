"""System calls for a program in the guest that makes what it is given: what a shell has no command for, in one process.

Its source is `native/syscalls.source`. A call is a record of six numbers, its own and its arguments; `Calls` has the
last of them write the results, and exit.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.guest.image.native.compiler import ROOM_ADDRESS

#: What the program reads, and where that is in its memory.
BUFFER_ADDRESS: Final = ROOM_ADDRESS
BUFFER_BYTES: Final = 4096

RECORD: Final = struct.Struct("<q5Q")

# linux: arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS: Final = {"write": 1, "open": 2, "close": 3, "ioctl": 16, "clock_settime": 227, "exit_group": 231}


@dataclass(frozen=True)
class Result:
    """What the call `name` returned."""

    name: str
    value: int

    @property
    def error(self) -> str | None:
        """What went wrong, by its name and in words; None if nothing did."""
        if self.value >= 0:
            return None
        return f"{self.name}: {errno.errorcode.get(-self.value, -self.value)}, {os.strerror(-self.value)}"


class Calls:
    """System calls for the program, in order."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, tuple[int | bytes, ...]]] = []

    def add(self, name: str, *arguments: int | bytes) -> None:
        """Make the call NAME; bytes among ARGUMENTS are passed by their address."""
        self._calls.append((name, arguments))

    def to_bytes(self) -> bytes:
        """What the program reads: these calls, and those by which it writes their results and exits.

        :raise ValueError: when that is more than it reads.
        """
        length = len(self._calls) * RECORD.size
        calls = [*self._calls, ("write", (1, BUFFER_ADDRESS, length)), ("exit_group", (0,))]
        records, data = b"", b""
        for name, arguments in calls:
            words = []
            for argument in arguments:
                if isinstance(argument, bytes):
                    words.append(BUFFER_ADDRESS + len(calls) * RECORD.size + len(data))
                    data += argument + bytes(-len(argument) % 8)
                else:
                    words.append(argument)
            records += RECORD.pack(NUMBERS[name], *words, *[0] * (5 - len(words)))
        if len(records + data) > BUFFER_BYTES:
            raise ValueError(f"{len(self._calls)} calls of {len(records + data)} bytes: {BUFFER_BYTES} at most")
        return records + data

    def results(self, output: bytes) -> list[Result]:
        """What the calls returned, by what the program wrote: none of a call that it did not come to."""
        names = (name for name, _ in self._calls)
        whole = output[: len(output) // RECORD.size * RECORD.size]
        return [Result(name, record[0]) for name, record in zip(names, RECORD.iter_unpack(whole), strict=False)]
