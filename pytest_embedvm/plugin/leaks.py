"""After teardown: what of a root stayed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


def leftovers(root: Path) -> list[str]:
    """What of ROOT is still there: files, descriptors of this process, its child processes."""
    return [*_files(root), *_descriptors(root), *_children(root)]


def _files(root: Path) -> Iterator[str]:
    if root.exists():
        held = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
        yield f"directory {root} with {', '.join(held) or 'nothing in it'}"


def _descriptors(root: Path) -> Iterator[str]:
    folder = Path("/proc/self/fd")
    for link in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the one that lists the folder is gone by now
            target = os.readlink(link)  # noqa: PTH115 - "socket:[1]" is no path
            if target.startswith(f"{root}/"):
                yield f"descriptor {link.name} of this process, open on {target}"


def _children(root: Path) -> Iterator[str]:
    for tasks in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for pid in tasks.read_text().split():
                if os.fsencode(root) in Path(f"/proc/{pid}/environ").read_bytes():
                    yield f"process {pid}: {Path(f'/proc/{pid}/comm').read_text().strip()}"
