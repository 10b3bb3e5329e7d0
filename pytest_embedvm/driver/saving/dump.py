"""What is in a guest's memory, for a debugger."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    DomainCoreDumpFormat,
    DomainJobOperation,
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
    ErrorDomain,
)
from pytest_embedvm.driver import state, stop
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving import compression
from pytest_embedvm.driver.saving.to_file import SAVE_TIMEOUT_S, Purpose, ToFile
from pytest_embedvm.errors import (
    InvalidArgument,
    OperationFailed,
    OperationInvalid,
    OperationUnsupported,
    SystemFailure,
)
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.qemu.monitor import CommandError

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

DUMP: Final = Purpose(
    "domain core dump", DomainJobOperation.DUMP, DomainPausedReason.DUMP, DomainRunningReason.UNPAUSED
)

#: QEMU's names of the formats of a memory-only dump. libvirt: qemuDumpFormat
FORMATS: Final = {
    DomainCoreDumpFormat.RAW: "elf",
    DomainCoreDumpFormat.KDUMP_ZLIB: "kdump-zlib",
    DomainCoreDumpFormat.KDUMP_LZO: "kdump-lzo",
    DomainCoreDumpFormat.KDUMP_SNAPPY: "kdump-snappy",
    DomainCoreDumpFormat.WIN_DMP: "win-dmp",
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wanted of a dump, and of the guest after it."""

    format: DomainCoreDumpFormat = DomainCoreDumpFormat.RAW
    #: A file for debuggers, instead of one that only QEMU reads.
    memory_only: bool = False
    #: The guest runs while it is written, as far as QEMU lets it.
    live: bool = False
    #: It ends then.
    crash: bool = False
    #: It boots anew then.
    reset: bool = False


async def dump(machine: Machine, path: Path, wish: Wish) -> None:
    """Write what the guest of MACHINE has in memory into the file PATH. The guest runs on, unless WISH says otherwise.

    :raise OperationInvalid: when it does not run.
    :raise OperationUnsupported: when that format is for memory-only dumps.
    :raise InvalidArgument: when this QEMU does not have that format.
    :raise SystemFailure: when the file cannot be written.
    :raise OperationFailed: when QEMU, or the program that compresses, fails.
    """
    # libvirt: qemuDomainCoreDumpWithFormat
    async with machine.changing("core dump") as qemu:
        if qemu is None or machine.status.state not in (DomainState.RUNNING, DomainState.PAUSED):
            raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
        if wish.format is not DomainCoreDumpFormat.RAW and not wish.memory_only:
            raise OperationUnsupported("kdump-compressed format is only supported with memory-only dump")
        job = ToFile(machine, qemu, DUMP, live=wish.live)
        async with _created(path) as descriptor:
            if wish.memory_only:
                await _memory(job, qemu, descriptor, wish)
            else:
                format_ = machine.driver.config.dump_image_format
                compression.check(format_)
                await job.run(format_, descriptor)
        if wish.crash:
            qemu.ending = state.PANICKED
            qemu.process.send_signal(signal.SIGKILL)
            await qemu.wait_ended(stop.FORCED_TIMEOUT_S)
            return
        if wish.reset:
            await qemu.monitor.execute("system_reset")
        await job.go_on(DomainRunningReason.UNPAUSED)


async def _memory(job: ToFile, qemu: Running, descriptor: int, wish: Wish) -> None:
    name = FORMATS[wish.format]
    offered = await qemu.monitor.execute("query-dump-guest-memory-capability")
    if name not in offered["formats"]:
        raise InvalidArgument(f"unsupported dumpformat '{name}' for this QEMU binary")
    async with job.paused():
        target = await transfer.hand_over(qemu, os.dup(descriptor))
        arguments = {"paging": False, "protocol": target, "format": name}
        try:
            await qemu.monitor.execute("dump-guest-memory", arguments, timeout=SAVE_TIMEOUT_S)
        except CommandError as error:
            raise OperationFailed(f"memory-only dump failed: {error.description}") from None


@contextlib.asynccontextmanager
async def _created(path: Path) -> AsyncIterator[int]:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error
    try:
        yield descriptor
        os.fsync(descriptor)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(descriptor)
