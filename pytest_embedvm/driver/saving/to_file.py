"""QEMU writes its guest into a file: a job that takes its time, can be asked about, and called off."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainJobOperation,
    DomainJobType,
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
)
from pytest_embedvm.driver import state
from pytest_embedvm.driver.long_job import UNLIMITED, Stats
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving import compression
from pytest_embedvm.errors import EmbedError, OperationAborted, OperationFailed, OperationTimeout
from pytest_embedvm.units import MIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long QEMU may take to write a guest.
SAVE_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True)
class Purpose:
    """What the file is for: the job's name in libvirt's sentences (libvirt: qemuMigrationJobName), and the states."""

    name: str
    operation: DomainJobOperation
    pausing: DomainPausedReason
    #: Why it runs again when nothing came of it.
    resuming: DomainRunningReason


class ToFile:
    """One such job of one machine, whose job is the caller's."""

    def __init__(
        self, machine: Machine, qemu: Running, purpose: Purpose, *, live: bool = False, ignore_shared: bool = False
    ) -> None:
        """:param live: the guest runs while it is written, until the last.
        :param ignore_shared: memory in a file that is shared is not written: who loads the rest has that file.
        """
        self._machine = machine
        self._qemu = qemu
        self._purpose = purpose
        self._live = live
        self._ignore_shared = ignore_shared
        self._job = machine.long_job
        self._was_running = machine.status.state is DomainState.RUNNING

    async def run(self, format_: str, descriptor: int) -> Stats:
        """Have QEMU write the guest to DESCRIPTOR, and leave it paused."""
        # libvirt: qemuDomainSaveInternal
        self._job.begin(self._purpose.operation)
        half = self._qemu.transfer = Transfer()
        try:
            await self._pause(runs=self._live and transfer.may_run(self._machine))
            async with compression.writing(format_, descriptor) as target:
                await transfer.set_up(self._qemu, ignore_shared=self._ignore_shared, max_bandwidth=UNLIMITED * MIB)
                await transfer.write(self._qemu, target)
                await self._wait(half)
            return self._job.stats(await transfer.query(self._qemu), DomainJobType.COMPLETED)
        except BaseException:
            with contextlib.suppress(EmbedError):
                await self._call_off(half)
            raise
        finally:
            self._job.end()
            self._qemu.transfer = None

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """The guest stands still while the block runs, and stays so if that ends well."""
        try:
            await self._pause(runs=self._live)
            yield
        except BaseException:
            with contextlib.suppress(EmbedError):
                await self.go_on(self._purpose.resuming)
            raise

    async def _pause(self, *, runs: bool) -> None:
        self._qemu.pausing = self._purpose.pausing
        if self._was_running and not runs:
            await self._qemu.monitor.execute("stop")

    async def _wait(self, half: Transfer) -> None:
        # libvirt: qemuMigrationJobCheckStatus
        ends = half.wait_over(), self._qemu.monitor.wait_closed(), half.wait_cancelling()
        done = await transfer.first(*ends, timeout=SAVE_TIMEOUT_S)
        if half.status == transfer.COMPLETED:
            return
        if self._job.aborted or half.status == transfer.CANCELLED:
            raise OperationAborted(f"job '{self._purpose.name}' canceled by client")
        if done is None:
            seen = f"last seen: migration {half.status}"
            raise OperationTimeout(f"{self._purpose.name} did not end within {SAVE_TIMEOUT_S:g} s; {seen}")
        if done == 1:
            raise OperationFailed("domain is not running")
        reason = (await transfer.query(self._qemu)).get("error-desc")
        outcome = f"failed: {reason}" if reason else "unexpectedly failed"
        raise OperationFailed(f"job '{self._purpose.name}' {outcome}")

    async def _call_off(self, half: Transfer) -> None:
        """Let the guest run on, if it ran."""
        if half.under_way:
            await self._qemu.monitor.execute("migrate_cancel")
            await transfer.first(half.wait_ended(), timeout=transfer.CANCEL_TIMEOUT_S)
        await self.go_on(self._purpose.resuming)

    async def go_on(self, reason: DomainRunningReason) -> None:
        """Let the guest run again, if it was paused for this."""
        self._qemu.pausing = DomainPausedReason.UNKNOWN
        if self._was_running and self._machine.status == state.paused(self._purpose.pausing):
            await transfer.wait_finished(self._qemu)
            self._qemu.resuming = reason
            await self._qemu.monitor.execute("cont")
