"""Which process it was: a number alone may be somebody else's by now."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Identity:
    """A process of this host for good: its number, when it began, and since which boot that is counted."""

    pid: int
    #: In clock ticks since the host was booted; 0 where the host does not tell.
    start_ticks: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process that is PID now.

        :raise ProcessLookupError: when there is none.
        """
        return cls(pid, _start_ticks(pid), _boot_id())

    @property
    def alive(self) -> bool:
        """Whether it still runs: one that has ended, and was not reaped yet, does not."""
        try:
            return self.pid > 0 and Identity.of(self.pid) == self and _stat(self.pid)[0] not in "ZX"
        except ProcessLookupError:
            return False


def _stat(pid: int) -> list[str]:
    """The fields of proc(5)'s stat from the third, the state, on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        raise ProcessLookupError(f"there is no process {pid}") from None


def _start_ticks(pid: int) -> int:
    return int(_stat(pid)[19]) if _boot_id() else 0


@cache
def _boot_id() -> str:
    return _BOOT.read_text().strip() if _BOOT.exists() else ""
