"""Files and directories that are private and never half written."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
from pathlib import Path
from typing import IO, Final

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700


def make_private_directory(path: Path) -> Path:
    """Create PATH and what is missing above it, 0700; an existing directory is left as it is.

    :raise OSError: when it cannot be made, or is no directory.
    """
    # Not parents=True: it makes those above with the default mode.
    try:
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    except FileNotFoundError:
        make_private_directory(path.parent)
        path.mkdir(mode=PRIVATE_DIRECTORY, exist_ok=True)
    return path


#: How the name of a file begins that is being written; its writer may have been killed.
HALF: Final = ".new-"


def write_atomically(
    path: Path, data: bytes, mode: int = PRIVATE_FILE, *, sync: bool = True, prefix: str = HALF
) -> None:
    """Write DATA to PATH so that a reader sees the old bytes or the new ones, never a part.

    The file is synced before it takes its name; a failure leaves no temporary file behind.

    :param prefix: how the temporary file is called meanwhile, so that who comes after a killed writer can tell.
    :param sync: False for what need not survive a power failure: it takes milliseconds less.
    :raise OSError: when the directory cannot be written.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=prefix, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if sync:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def memory_file(name: str) -> IO[bytes]:
    """An empty file that no directory has, to write and read; NAME shows in /proc only."""
    return os.fdopen(os.memfd_create(name), "w+b")


# Linux: FICLONE of linux/fs.h
_FICLONE: Final = 0x40049409


def copy_sparse(source: Path, target: Path) -> None:
    """Make TARGET, 0600, with the content of the file SOURCE and its holes; sharing its blocks where it can.

    A failure leaves nothing behind. It takes its time for a large file.

    :raise OSError: when SOURCE cannot be read, or TARGET exists or cannot be written.
    """
    with source.open("rb") as origin:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
        try:
            _copy_content(origin.fileno(), descriptor)
        except BaseException:
            target.unlink()
            raise
        finally:
            os.close(descriptor)


def _copy_content(source: int, target: int) -> None:
    with contextlib.suppress(OSError):  # another file system, or one that shares no blocks
        fcntl.ioctl(target, _FICLONE, source)
        return
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    at = 0
    while (begin := _next_data(source, at)) is not None:
        at = os.lseek(source, begin, os.SEEK_HOLE)
        os.lseek(target, begin, os.SEEK_SET)
        while begin < at:
            sent = os.sendfile(target, source, begin, at - begin)
            if not sent:  # it was cut off meanwhile
                return
            begin += sent


def _next_data(descriptor: int, start: int) -> int | None:
    """Where the first data from START on begin; None where there are none."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def set_aside(path: Path) -> Path:
    """Keep PATH, which cannot be read, as `NAME.unreadable`, numbered if that is taken; returns where it is now.

    That is PATH itself when it cannot be renamed.
    """
    aside = path.with_name(f"{path.name}.unreadable")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{path.name}.unreadable-{number}")
    with contextlib.suppress(OSError):
        return path.rename(aside)
    return path


def lock_holders(path: Path) -> tuple[int, ...]:
    """The processes that have PATH locked with flock(), as far as they are in this PID namespace."""
    try:
        inode = path.stat().st_ino
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return ()
    # A row that waits for the one above it has an arrow behind its number.
    found = (row for row in rows if row[1] == "FLOCK" and row[5].endswith(f":{inode}"))
    return tuple(sorted({int(row[4]) for row in found if int(row[4]) > 0}))
