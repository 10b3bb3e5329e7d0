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
    for path in sorted(root.rglob("*")):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(path.lstat().st_mode):
                yield f"socket {path}"
            elif path.suffix == ".pid":
                yield f"lock {path}, of process {path.read_text().strip()}"


def _descriptors(root: Path) -> Iterator[str]:
    folder = Path("/proc/self/fd")
    for link in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the one that lists the folder is gone by now
            target = os.readlink(link)  # noqa: PTH115 - "socket:[1]" is no path
            if target == str(root) or target.startswith(f"{root}/"):
                yield f"descriptor {link.name} of this process, open on {target}"


def _processes(root: Path) -> Iterator[str]:
    """Children that have ROOT in their environment or command line; one that has ended and was not reaped has none."""
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in tasks.read_text().split():
                process = Path("/proc", pid)
                if any(os.fsencode(root) in (process / name).read_bytes() for name in ("environ", "cmdline")):
                    yield f"process {pid}: {(process / 'comm').read_text().strip()}"
