"""How a machine ends: one way, whoever wants it to."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import DomainEventShutdownDetailType
from pytest_embedvm.driver import logs, react, state
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.state import Ending
from pytest_embedvm.errors import EmbedError, OperationTimeout, SystemFailure

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver
    from pytest_embedvm.driver.machine import Machine

#: How long QEMU may take to write its images back after SIGTERM.
GRACEFUL_TIMEOUT_S: Final = 15.0  # libvirt: virProcessKillPainfully
#: How long the kernel may take after SIGKILL, and the companions after that.
FORCED_TIMEOUT_S: Final = 30.0


def watch(machine: Machine, running: Running) -> None:
    """Take MACHINE apart as soon as its QEMU is gone."""
    running.watcher = asyncio.get_running_loop().create_task(_watch(machine, running))


async def _watch(machine: Machine, running: Running) -> None:
    await running.wait_gone()
    log = machine.root.log.about(machine.name)
    try:
        await running.stack.aclose()
    except (EmbedError, OSError):
        log.exception("what belonged to QEMU %d did not end well", running.process.pid)
    # libvirt: processMonitorEOFEvent: no SHUTDOWN event, so it crashed
    ending = running.ending or (state.POWERED_OFF if running.got_shutdown else state.LOST)
    logs.shutting_down(log, running.log, ending.reason)
    machine.stopped(ending)
    running.ended.set()


async def detach(running: Running) -> None:
    """Leave a QEMU, and what runs beside it, to whoever opens the root next."""
    if running.watcher is not None:
        running.watcher.cancel()
    running.recording.flush()
    running.recording.close()
    await leave(running)


async def leave(running: Running) -> None:
    """Hang up on a QEMU that runs on."""
    await running.unlink()
    for process in (running.process, *running.companions):
        process.leave()


async def end(running: Running, ending: Ending) -> None:
    """End a QEMU now, as ENDING, and return when nothing of its machine's run is left.

    :raise OperationTimeout: when that takes too long.
    """
    running.ending = ending
    running.process.send_signal(signal.SIGKILL)
    await running.wait_ended(FORCED_TIMEOUT_S)


async def destroy(machine: Machine, running: Running, *, graceful: bool = False) -> None:
    """End MACHINE now, and return when nothing of it is left.

    :param graceful: QEMU ends by itself, which writes its images back; the machine runs on if it does not.
    :raise SystemFailure: when graceful, and QEMU is still there after 15 s.
    """
    before, running.ending = running.ending, state.DESTROYED
    if graceful:
        running.process.send_signal(signal.SIGTERM)
        try:
            await running.wait_ended(GRACEFUL_TIMEOUT_S)
        except OperationTimeout:
            running.ending = before
            # libvirt: virProcessKillPainfullyDelay
            raise SystemFailure(
                f"Failed to terminate process {running.process.pid} with SIGTERM: Device or resource busy"
            ) from None
        return
    if running.watcher is not None:  # else it is only being started, and nobody has heard of it
        # Killed as it is, QEMU cannot say SHUTDOWN; libvirt's callers expect to hear it.
        react.announce_shutdown(machine, DomainEventShutdownDetailType.HOST)
    running.process.send_signal(signal.SIGKILL)
    await running.wait_ended(FORCED_TIMEOUT_S)


def kill_all(driver: Driver) -> bool:
    """End every machine of DRIVER's without waiting; False, and nothing is done, unless it has one connection."""
    if not driver.is_last:
        return False
    for machine in driver.registry:
        if machine.running is not None:
            machine.running.ending = state.DESTROYED
            machine.running.process.send_signal(signal.SIGKILL)
    return True
