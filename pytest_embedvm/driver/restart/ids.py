"""The numbers of runs: an id names one run of one machine, for as long as the root exists."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import write_atomically


class Ids:
    """Where the counting stands is in the root, so that it goes on when the root is opened again."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._last: int | None = None

    def next(self) -> int:
        """An id that no machine of this root had before.

        :raise SystemFailure: when that it is taken cannot be written down.
        """
        path = self._path()
        last = (_read(path) if self._last is None else self._last) + 1
        try:
            write_atomically(path, f"{last}\n".encode(), sync=False)
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error
        self._last = last
        return last

    def taken(self, number: int) -> None:
        """NUMBER is that of a machine which runs."""
        self._last = max(number, _read(self._path()) if self._last is None else self._last)

    def _path(self) -> Path:
        return self._root.directory("run", "qemu") / "last-id"


def _read(path: Path) -> int:
    """The last id that was given; 0 if nothing legible says so."""
    try:
        return int(path.read_text("ascii"))
    except (OSError, ValueError):
        return 0
