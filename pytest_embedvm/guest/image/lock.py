"""What is made for the cache is made by one process, while the others wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.files import PRIVATE_FILE, lock_holders

#: When who waits is told again what for; after that when he has waited twice as long, and so on.
PROGRESS_S: Final = 5.0


@contextmanager
def locked(path: Path, doing: str, timeout: float, progress: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the lock PATH while the block runs.

    :param doing: what a process does that holds it, as in "has been building the guest".
    :param timeout: seconds to wait for another process.
    :param progress: told what is waited for: at once, after a few seconds, and then more and more seldom.
    :raise OperationTimeout: when it holds the lock for longer.
    """
    lock = FileLock(path, mode=PRIVATE_FILE)
    begun, pause = time.monotonic(), 0.0
    while True:
        try:
            lock.acquire(timeout=pause)
            break
        except Timeout:
            waited = time.monotonic() - begun
        if waited >= timeout:
            raise OperationTimeout(f"{_holder(path)} has been {doing} for {timeout:g} s; it holds {path}")
        if progress is not None:
            progress(f"waiting for {_holder(path)}, which is {doing}: {waited:.0f} s")
        pause = min(max(PROGRESS_S, waited), timeout - waited)
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    for pid in lock_holders(path):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").split()
            return f"process {pid} ({' '.join(words[:4])})"
    return "another process"
