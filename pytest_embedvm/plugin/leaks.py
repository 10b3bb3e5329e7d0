"""After teardown: what of a root stayed."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


def leftovers(root: Path) -> list[str]:
    """What of ROOT is still in use once its connections are closed: sockets, locks, descriptors, processes.

    Descriptors and processes are those of this process and its children.
    """
    return [*_sockets_and_locks(root), *_descriptors(root), *_processes(root)]


def _sockets_and_locks(root: Path) -> Iterator[str]:
    for path, is_socket in sorted(_special(os.fspath(root))):
        with contextlib.suppress(FileNotFoundError):
            if is_socket:
                yield f"socket {path}"
            else:
                yield f"lock {path}, of process {Path(path).read_text().strip()}"


def _special(folder: str) -> Iterator[tuple[str, bool]]:
    """The sockets and locks below FOLDER, and which of both each is; as each test waits for it, without `Path`."""
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _special(entry.path)
            elif entry.name.endswith(".pid"):
                yield entry.path, False
            elif not entry.is_file(follow_symlinks=False) and _is_socket(entry):
                yield entry.path, True


def _is_socket(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
    return False


def _descriptors(root: Path) -> Iterator[str]:
    folder = "/proc/self/fd"
    for name in os.listdir(folder) if os.path.isdir(folder) else ():  # noqa: PTH112, PTH208 - as above
        with contextlib.suppress(OSError):  # the one that lists the folder is gone by now
            target = os.readlink(f"{folder}/{name}")  # noqa: PTH115 - "socket:[1]" is no path
            if target == str(root) or target.startswith(f"{root}/"):
                yield f"descriptor {name} of this process, open on {target}"


def _processes(root: Path) -> Iterator[str]:
    """Children that have ROOT in their environment or command line; one that has ended and was not reaped has none."""
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in tasks.read_text().split():
                process = Path("/proc", pid)
                if any(os.fsencode(root) in (process / name).read_bytes() for name in ("environ", "cmdline")):
                    yield f"process {pid}: {(process / 'comm').read_text().strip()}"
