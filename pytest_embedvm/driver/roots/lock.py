"""The lock that makes a root one process's own; libvirt's lock and this one see each other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from weakref import WeakSet

from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.qemu.process import command_of

#: C's `struct flock`: type, whence, start, length, process.
FLOCK: Final = struct.Struct("hhqqi0q")
#: libvirt: virPidFileAcquirePath: the first byte.
_RANGE: Final = (os.SEEK_SET, 0, 1)


@dataclass(frozen=True)
class Holder:
    """A process that has a root open."""

    #: None where it cannot be told, as for one in another pid namespace.
    pid: int | None
    command: str

    def __str__(self) -> str:
        if self.pid is None:
            return "a process that cannot be seen from here"
        return f"process {self.pid}: {self.command}" if self.command else f"process {self.pid}"


class HeldInPassing(SystemFailure):
    """A lock is held by somebody who will give it back at once."""


class Lock:
    """An exclusive lock on a file that holds its owner's process id; the kernel frees it when the owner dies.

    It belongs to the open file (F_OFD_SETLK), not to the process: reading the file elsewhere in the process does
    not give it away, as it would libvirt's, and both exclude each other. A forked child does not inherit it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, *, passing: bool = False) -> None:
        """Take it, and write this process's id; the file's directory must be there.

        :param passing: it is for a moment and for no owner: no id is written, and who wants to own it may wait.
        :raise HeldInPassing: when somebody has it so, or nobody can tell who has it; see `_in_passing`.
        :raise SystemFailure: when another process has it, or another `Lock` of this one; names the process.
        """
        while self._descriptor is None:
            descriptor = self._open()
            try:
                self._lock(descriptor)
                if _still_there(descriptor, self.path):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:  # refused, or its holder removed the file between our open and our lock
                    os.close(descriptor)
        _held.add(self)
        os.ftruncate(self._descriptor, 0)
        if not passing:
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, PRIVATE_FILE)
        except OSError as error:
            raise SystemFailure(f"Failed to acquire pid file '{self.path}': {error.strerror}") from error

    def _lock(self, descriptor: int) -> None:
        try:
            _set(descriptor, fcntl.F_WRLCK)
        except OSError as error:
            taken = error.errno in _TAKEN
            owner = _holder(descriptor)
            who = f" (held by {owner})" if taken else ""
            # libvirt: virPidFileAcquirePath; the holder is our addition
            refusal = HeldInPassing if taken and _in_passing(descriptor, owner) else SystemFailure
            raise refusal(f"Failed to acquire pid file '{self.path}': {error.strerror}{who}") from error

    def release(self) -> None:
        """Remove the file and give the lock back; a second call does nothing."""
        if self._descriptor is None:
            return
        self.path.unlink(missing_ok=True)
        # A child that was forked by no code of Python's may have the descriptor: closing ours would not unlock.
        _set(self._descriptor, fcntl.F_UNLCK)
        self.forget()

    def forget(self) -> None:
        """In a forked child: drop the copy of the lock, which stays the parent's."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        _held.discard(self)


_held: Final[WeakSet[Lock]] = WeakSet()

#: What the kernel says of a lock that another has.
_TAKEN: Final = (errno.EAGAIN, errno.EACCES)


def _set(descriptor: int, kind: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(kind, *_RANGE, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # A kernel without locks of open files.
        fcntl.flock(descriptor, fcntl.LOCK_UN if kind == fcntl.F_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _taken(descriptor: int) -> int | None:
    """The process whose lock is on the file, 0 if that is not told; None when there is none."""
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, FLOCK.pack(fcntl.F_WRLCK, *_RANGE, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return _flocked(descriptor)
    kind, _, _, _, pid = FLOCK.unpack(answer)
    # -1: a lock of an open file, which may be several processes'
    return None if kind == fcntl.F_UNLCK else max(pid, 0)


def _flocked(descriptor: int) -> int | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return None


def _in_passing(descriptor: int, owner: Holder) -> bool:
    """Whether the lock on DESCRIPTOR's file may be somebody's who does not keep it: it is given back, or no OWNER's.

    Who has taken it has not yet written who he is; or a killed owner had forked a moment before, and the child, which
    has the descriptor, has not yet dropped it.
    """
    return owner.pid is None or _taken(descriptor) is None


def _holder(descriptor: int) -> Holder:
    """Whose lock is on the file of DESCRIPTOR: as the kernel says, or as its owner wrote into the file."""
    told = _taken(descriptor)
    try:
        pid = told or int(os.pread(descriptor, 32, 0))
        # Of another pid namespace, or of an owner that died: that number is no process here, or one without the file.
        return Holder(pid, command_of(pid)) if _has_open(pid, descriptor) else Holder(None, "")
    except (OSError, ValueError):  # it has just taken the lock and written nothing, or is hidden
        return Holder(told or None, "")


def _has_open(pid: int, descriptor: int) -> bool:
    """Whether process PID has the file of DESCRIPTOR open; yes where that cannot be looked up."""
    file = os.fstat(descriptor)
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except PermissionError:
        return True
    return any(os.path.samestat(status, file) for status in _statuses(links))


def _statuses(links: list[Path]) -> Iterator[os.stat_result]:
    for link in links:
        with contextlib.suppress(OSError):  # closed meanwhile
            yield link.stat()


def holder(path: Path) -> Holder | None:
    """Who holds the lock on PATH, without touching it; None when nobody does, or there is no such file.

    :raise OSError: when it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return None if _taken(descriptor) is None else _holder(descriptor)
    finally:
        os.close(descriptor)


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _forget_in_child() -> None:
    """A child of fork has the objects and the descriptors; the locks stay the parent's."""
    for lock in tuple(_held):
        lock.forget()


os.register_at_fork(after_in_child=_forget_in_child)
