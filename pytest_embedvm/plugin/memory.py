"""How much memory this host, or this container, has for VMs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MIB: Final = 1024**2

_GROUP: Final = Path("/sys/fs/cgroup")
_MEMINFO: Final = Path("/proc/meminfo")


def total() -> int:
    """Bytes there are."""
    return min([os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_numbers("memory.max")])


def available() -> int:
    """Bytes that can be had without swapping."""
    most, used = next(_numbers("memory.max"), None), next(_numbers("memory.current"), None)
    free = _available_on_host()
    return free if most is None or used is None else min(free, most - used)


def _available_on_host() -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _numbers(name: str) -> Iterator[int]:
    """What the control group says, if it does; "max" is no limit."""
    with contextlib.suppress(OSError, ValueError):
        yield int((_GROUP / name).read_text())
