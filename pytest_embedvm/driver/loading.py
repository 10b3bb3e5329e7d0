"""What QEMU and the driver do once a guest's state has come, from elsewhere or from a file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventType,
    DomainPausedReason,
    DomainRunningReason,
)
from pytest_embedvm.domain.backends.chardev import chardev_id
from pytest_embedvm.domain.consoles import learn
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import state, stop
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.events import AgentLifecycle
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.migration.transfer import Transfer
from pytest_embedvm.driver.network.joining import wait_joined
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.start import Adaptation, last_words
from pytest_embedvm.errors import InternalError, OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long QEMU may take to load what there is.
LOAD_TIMEOUT_S: Final = 60.0


async def bring_back(
    machine: Machine,
    client: Client | None,
    domain: Completed,
    flags: int,
    *,
    adaptation: Adaptation,
    load: Callable[[Running], Awaitable[None]],
    paused: bool,
) -> None:
    """Start QEMU for DOMAIN, have LOAD give it the guest that was, and let that go on. A failure leaves nothing.

    The caller has the job.

    :param paused: it waits to be resumed.
    :raise InternalError: when QEMU ends instead; with its own words. And what LOAD raises.
    """
    if domain.genid is not None:
        domain.genid.renew(machine.driver.host.new_uuid)
    await machine.bring_up(domain, flags, client, wait=True, adaptation=adaptation)
    running = machine.running
    if running is None:  # it ended between its start and now
        raise InternalError("guest unexpectedly quit")
    try:
        await load(running)
        await _go_on(machine, running, paused=paused)
    except BaseException:
        await stop.end(running, state.NOT_ARRIVED)
        raise


async def _go_on(machine: Machine, running: Running, *, paused: bool) -> None:
    # libvirt: qemuSaveImageStartVM
    machine.status = state.paused(DomainPausedReason.MIGRATION)
    machine.emit_lifecycle(DomainEventType.STARTED, DomainEventStartedDetailType.RESTORED)
    if paused:
        machine.emit_lifecycle(DomainEventType.SUSPENDED, DomainEventSuspendedDetailType.RESTORED)
    else:
        running.resuming = DomainRunningReason.RESTORED
        await running.monitor.execute("cont")
    running.announce()


async def wait_loaded(machine: Machine, running: Running, half: Transfer, timeout: float = LOAD_TIMEOUT_S) -> None:
    """Wait until QEMU has loaded the guest, which may go on from then on.

    :raise InternalError: when it could not, or ended; with its own words.
    :raise OperationTimeout: when that takes longer than TIMEOUT seconds; or another 10 s for the cables of its cards.
    """
    if await transfer.first(half.wait_over(), running.monitor.wait_closed(), timeout=timeout) is None:
        seen = f"last seen: migration {half.status}"
        raise OperationTimeout(f"QEMU did not load the guest within {timeout:g} s; {seen}")
    if half.status != transfer.COMPLETED:
        await transfer.first(running.process.wait(), timeout=stop.FORCED_TIMEOUT_S)
        # libvirt: qemuMigrationDstFinishActive, qemuProcessReportLogError
        raise InternalError(f"guest unexpectedly quit: {qemus_words(machine, running)}")
    await wait_joined(running)


async def learn_channels(machine: Machine, running: Running) -> None:
    """Which channels the guest has open: it opened them before (libvirt: qemuRefreshVirtioChannelState)."""
    if machine.live is None or not running.ports:
        return
    answer = await running.monitor.execute("query-chardev")
    learn(machine.live, answer)
    agent = running.agent
    if agent is None or agent.connected:
        return
    if any(c["label"] == chardev_id(agent.alias) and c["frontend-open"] for c in answer):
        agent.guest_opened()
        connected = ConnectDomainEventAgentLifecycleState.CONNECTED
        machine.emit(AgentLifecycle(connected, ConnectDomainEventAgentLifecycleReason.CHANNEL))


def qemus_words(machine: Machine, running: Running) -> str:
    """What QEMU itself said, without what the driver has written below it."""
    ours = f"[{machine.root.log.about(machine.name).label}] "
    return "\n".join(line for line in last_words(running).splitlines() if ours not in line)
