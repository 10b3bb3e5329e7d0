"""Files and directories that are private and never half written."""

from __future__ import annotations

import contextlib
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
