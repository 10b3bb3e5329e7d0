"""Things that are counted: how often QEMU was started, how many descriptors are open."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm.qemu.binary import find_binary


class CountingBinary:
    """A script under DIRECTORY that notes that it was started and becomes the real QEMU."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "starts"
        self.path = directory / "qemu-counting"
        self.path.write_text(f"#!/bin/sh\necho start >> '{self._log}'\nexec '{find_binary()}' \"$@\"\n")
        self.path.chmod(0o755)

    @property
    def starts(self) -> int:
        return len(self._log.read_text().splitlines()) if self._log.exists() else 0


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
