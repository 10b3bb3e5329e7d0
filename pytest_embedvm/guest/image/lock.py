"""What is made for the cache is made by one process, while the others wait."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.files import PRIVATE_FILE


@contextmanager
def locked(path: Path, doing: str, timeout: float) -> Iterator[None]:
    """Hold the lock PATH while the block runs.

    :param doing: what a process does that holds it, as in "has been building the guest".
    :param timeout: seconds to wait for another process.
    :raise OperationTimeout: when it holds the lock for longer.
    """
    lock = FileLock(path, timeout=timeout, mode=PRIVATE_FILE)
    try:
        lock.acquire()
    except Timeout:
        raise OperationTimeout(f"another process has been {doing} for {timeout:g} s; it holds {path}") from None
    try:
        yield
    finally:
        lock.release()
