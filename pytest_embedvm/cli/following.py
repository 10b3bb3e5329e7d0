"""Files that grow, and processes that end, without polling: inotify and pidfds."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: Linux: inotify(7)
_IN_MODIFY: Final = 0x2
_READ_BYTES: Final = 65536


class Growth:
    """What is appended to a file. `fileno()` becomes readable when there may be more."""

    def __init__(self, path: Path) -> None:
        """Begin at the start of the file at PATH.

        :raise OSError: when it cannot be opened, or the kernel gives no watch.
        """
        self._file = path.open("rb", buffering=0)
        libc = ctypes.CDLL(None, use_errno=True)
        self._watch: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._watch < 0 or libc.inotify_add_watch(self._watch, os.fsencode(path), _IN_MODIFY) < 0:
            number = ctypes.get_errno()
            self.close()
            raise OSError(number, os.strerror(number), str(path))

    def fileno(self) -> int:
        return self._watch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        if self._watch >= 0:
            os.close(self._watch)

    def skip(self, keep: int) -> None:
        """Go on at the first line that begins in the last KEEP bytes; if none does, where these do."""
        begin = max(os.fstat(self._file.fileno()).st_size - keep - 1, 0)
        self._file.seek(begin)
        if begin:
            _, newline, rest = self._file.read(keep + 1).partition(b"\n")
            self._file.seek(-len(rest) if newline else -keep, os.SEEK_CUR)

    def read(self) -> Iterator[bytes]:
        """What has been appended since the last time."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._watch, _READ_BYTES)  # before the file: what comes in between is announced anew
        while data := self._file.read(_READ_BYTES):
            yield data


def follow(growth: Growth, pidfd: int) -> Iterator[bytes]:
    """What is in the file and is appended to it, until the process behind PIDFD has ended."""
    poll = select.poll()
    poll.register(growth.fileno(), select.POLLIN)
    poll.register(pidfd, select.POLLIN)
    ready: set[int] = set()
    while True:
        yield from growth.read()
        if pidfd in ready:
            return
        ready = {number for number, _ in poll.poll()}
