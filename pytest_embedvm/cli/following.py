"""Files that grow, and processes that end, without polling: inotify and pidfds."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pytest_embedvm.inotify import MODIFY, Inotify

_READ_BYTES: Final = 65536


class Growth:
    """What is appended to a file. `fileno()` becomes readable when there may be more."""

    def __init__(self, path: Path) -> None:
        """Begin at the start of the file at PATH.

        :raise OSError: when it cannot be opened, or the kernel gives no watch.
        """
        self._file = path.open("rb", buffering=0)
        try:
            self._watch = Inotify(MODIFY, path)
        except OSError:
            self._file.close()
            raise

    def fileno(self) -> int:
        return self._watch.fileno()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self._watch.close()

    def skip(self, keep: int) -> None:
        """Go on at the first line that begins in the last KEEP bytes; if none does, where these do."""
        begin = max(os.fstat(self._file.fileno()).st_size - keep - 1, 0)
        self._file.seek(begin)
        if begin:
            _, newline, rest = self._file.read(keep + 1).partition(b"\n")
            self._file.seek(-len(rest) if newline else -keep, os.SEEK_CUR)

    def read(self) -> Iterator[bytes]:
        """What has been appended since the last time."""
        self._watch.forget()  # before the file: what comes in between is announced anew
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
