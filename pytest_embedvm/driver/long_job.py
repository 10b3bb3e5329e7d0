"""What can be asked of a job that takes its time: how far it is, and how the last one went."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from pytest_embedvm.constants import DomainJobOperation, DomainJobType

#: MiB/s. libvirt: QEMU_DOMAIN_MIG_BANDWIDTH_MAX
UNLIMITED: Final = (2**63 - 1) // 2**20

#: libvirt's names of a job's figures: `VIR_DOMAIN_JOB_…`, and `type`.
Stats: TypeAlias = dict[str, int | str]

#: libvirt's names to QEMU's, in the answer to query-migrate and in its `ram`.
_TIMES: Final = {"setup_time": "setup-time", "downtime": "downtime"}
_MEMORY: Final = {
    "memory_total": "total",
    "memory_processed": "transferred",
    "memory_remaining": "remaining",
    "memory_constant": "duplicate",
    "memory_normal": "normal",
    "memory_normal_bytes": "normal-bytes",
    "memory_dirty_rate": "dirty-pages-rate",
    "memory_iteration": "dirty-sync-count",
    "memory_postcopy_requests": "postcopy-requests",
    "memory_page_size": "page-size",
}


class LongJob:
    """The long job of one machine, if it has one, and what is remembered from one to the next."""

    def __init__(self) -> None:
        #: The most that a migration may send, in MiB/s.
        self.max_speed = UNLIMITED
        self.operation = DomainJobOperation.UNKNOWN
        #: Whether somebody called the job off.
        self.aborted = False
        self._completed: Stats = {}
        self._started = 0.0

    @property
    def active(self) -> bool:
        return self.operation is not DomainJobOperation.UNKNOWN

    def begin(self, operation: DomainJobOperation) -> None:
        self.operation, self.aborted = operation, False
        self._started = asyncio.get_running_loop().time()

    def end(self, completed: Stats | None = None) -> None:
        """It is over; COMPLETED is what it is remembered by."""
        self.operation = DomainJobOperation.UNKNOWN
        self._completed = completed or {}

    def completed(self, *, keep: bool) -> Stats:
        """The figures of the last job; they are told once, unless they are to be kept."""
        # libvirt: qemuDomainGetJobStats
        found = self._completed
        if not keep:
            self._completed = {}
        return found or {"type": DomainJobType.NONE}

    def stats(self, answer: Mapping[str, Any], kind: DomainJobType = DomainJobType.UNBOUNDED) -> Stats:
        """The figures of the job that is under way, with QEMU's ANSWER to query-migrate."""
        # libvirt: qemuDomainMigrationJobDataToParams
        elapsed = asyncio.get_running_loop().time() - self._started
        stats: Stats = {"type": kind, "operation": self.operation, "time_elapsed": round(elapsed * 1000)}
        stats |= {name: answer[theirs] for name, theirs in _TIMES.items() if theirs in answer}
        ram = answer.get("ram", {})
        figures = {name: ram[theirs] for name, theirs in _MEMORY.items() if theirs in ram}
        if "mbps" in ram:
            figures["memory_bps"] = round(ram["mbps"] * 1_000_000 / 8)
        for what in ("total", "processed", "remaining"):
            figures[f"data_{what}"] = figures.get(f"memory_{what}", 0)
            figures[f"disk_{what}"] = 0
        if "cpu-throttle-percentage" in answer:
            figures["auto_converge_throttle"] = answer["cpu-throttle-percentage"]
        return stats | figures


def info(stats: Stats) -> list[int]:
    """STATS as jobInfo() gives them: type; ms elapsed and remaining; total, processed and remaining bytes, by kind."""
    names = ["type", "time_elapsed", "time_remaining"]
    names += [f"{what}_{part}" for what in ("data", "memory", "disk") for part in ("total", "processed", "remaining")]
    return [int(stats.get(name, 0)) for name in names]
