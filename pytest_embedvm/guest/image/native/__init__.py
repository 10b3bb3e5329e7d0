"""Programs of the guest's own, which a shell would be too slow for, by the paths that they have there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.native.compiler import compiled

EXEC_SERVER: Final = Path(__file__).parent / "exec_server.source"
SYSCALLS: Final = Path(__file__).parent / "syscalls.source"
SOURCES: Final = {"lib/embedvm/exec": EXEC_SERVER, "lib/embedvm/syscalls": SYSCALLS}


def programs(arch: str) -> Iterator[tuple[str, bytes]]:
    """What there is for a guest of this architecture."""
    if arch == "x86_64":
        for path, source in SOURCES.items():
            yield path, compiled(source)
