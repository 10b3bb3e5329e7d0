"""What happens to files, told by the kernel: inotify."""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: Linux: inotify(7)
MODIFY: Final = 0x2
CLOSE_WRITE: Final = 0x8

_READ_BYTES: Final = 65536


class Inotify:
    """A watch on files. `fileno()` becomes readable when something has happened to one of them."""

    def __init__(self, mask: int, *paths: Path) -> None:
        """:param mask: what is to be told.
        :raise OSError: when the kernel gives no watch, or a file is not there.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor: int = libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        for path in paths:
            if self._descriptor < 0 or libc.inotify_add_watch(self._descriptor, os.fsencode(path), mask) < 0:
                number = ctypes.get_errno()
                self.close()
                raise OSError(number, os.strerror(number), str(path))

    def fileno(self) -> int:
        return self._descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Watch no more; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def forget(self) -> None:
        """Have what was told so far; what comes after is told anew."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._descriptor, _READ_BYTES):
                pass

    def wait(self, timeout: float) -> bool:
        """Whether something happened, since the last time or within TIMEOUT seconds."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        happened = bool(poll.poll(timeout * 1000))
        self.forget()
        return happened
