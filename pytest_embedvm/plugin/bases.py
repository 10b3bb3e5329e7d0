"""The images below a machine's own disk: nobody writes them while it runs, or it reads what never was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pytest_embedvm.driver.media import DEEPEST
from pytest_embedvm.qemu.image import backing


class _Look(NamedTuple):
    device: int
    inode: int
    size: int
    mtime_ns: int


class Bases:
    """Those of one test."""

    def __init__(self) -> None:
        self._seen: dict[Path, tuple[str, _Look | None]] = {}

    def use(self, image: Path, machine: str) -> None:
        """From now on IMAGE, and all that it stands on, stays as it is: MACHINE's disk stands on it.

        :raise ValueError: when it has changed since another machine began to use it.
        """
        changed = list(self.changes())
        if changed:
            raise ValueError(changed[0])
        for path in _chain(image):
            self._seen.setdefault(path, (machine, _look(path)))

    def changes(self) -> Iterator[str]:
        """What has changed, a sentence each."""
        for path, (machine, before) in self._seen.items():
            after = _look(path)
            if after != before:
                how = _difference(before, after)
                yield (
                    f"the image {path} was changed while machine '{machine}' stood on it ({how}): "
                    "what the guest read may be neither the old nor the new"
                )


def _chain(image: Path) -> Iterator[Path]:
    below: Path | None = image
    for _ in range(DEEPEST):
        if below is None or not below.is_file():
            return
        yield below
        found = backing(below)
        below = below.parent / found.name if found else None


def _look(path: Path) -> _Look | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return _Look(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _difference(before: _Look | None, after: _Look | None) -> str:
    if before is None or after is None:
        return "it is gone" if after is None else "it is new"
    if before.size != after.size:
        return f"{before.size} bytes before, {after.size} now"
    return "another file is there" if before[:2] != after[:2] else "it was written"
