"""What exists exactly as long as a machine's QEMU does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import DomainPausedReason, DomainRunningReason
from pytest_embedvm.driver.companions import Companions
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.driver.guest_agent import AgentChannel
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.driver.hotplug.trays import Trays
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.restart.record import BlockJob
from pytest_embedvm.driver.restart.recording import Recording
from pytest_embedvm.driver.state import Ending
from pytest_embedvm.errors import InternalError, OperationTimeout
from pytest_embedvm.qemu.monitor import Monitor
from pytest_embedvm.qemu.process import Process

if TYPE_CHECKING:
    from pytest_embedvm.driver.migration.transfer import Transfer
    from pytest_embedvm.driver.network.capture import Capture
    from pytest_embedvm.driver.templates.template import Cloned

#: Between the monitor's end and the process's: QEMU closes its images before it hangs up.
EXIT_TIMEOUT_S: Final = 5.0


@dataclass(kw_only=True)
class Running:
    """A started QEMU. `stack` undoes every step of starting it."""

    id: int
    log: Path
    #: Where in the log QEMU's own words begin, in bytes.
    log_start: int
    argv: tuple[str, ...]
    process: Process
    ports: list[Port]
    #: Our end of the monitor, until the monitor takes it.
    socket: socket.socket
    recording: Recording
    #: When QEMU was started, in seconds since 1970.
    started: float
    #: Whether it outlives us.
    kept: bool
    #: The files, sockets too, that go with it, and the programs that run beside it.
    files: list[Path]
    companions: Companions
    #: What was opened for its parts, which may go before QEMU does.
    holdings: Holdings
    #: The host's taps that its cards have, by their MACs.
    taps: dict[str, str] = field(default_factory=dict)
    #: What was captured of its cards, those that were ended included.
    captures: list[Capture] = field(default_factory=list)
    #: Block jobs that were begun and whose end was not told, by QEMU's name of them; and who waits for their end.
    jobs: dict[str, BlockJob] = field(default_factory=dict)
    jobs_awaited: dict[str, asyncio.Event] = field(default_factory=dict)
    concluding: asyncio.Lock = field(default_factory=asyncio.Lock)
    #: Whether somebody was told that it had started.
    announced: bool = False
    agent: AgentChannel | None = None
    #: Its half of a migration, if there is one.
    transfer: Transfer | None = None
    #: What it was cloned from.
    cloned: Cloned | None = None
    stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    #: The reasons that QEMU's next STOP and RESUME will have; it does not know them.
    pausing: DomainPausedReason = DomainPausedReason.UNKNOWN
    resuming: DomainRunningReason = DomainRunningReason.UNPAUSED
    #: The next power-off resets instead. libvirt: qemuDomainSetFakeReboot
    fake_reboot: bool = False
    got_shutdown: bool = False
    #: Set by the guest's SHUTDOWN and RESET.
    guest_left: asyncio.Event = field(default_factory=asyncio.Event)
    #: Set by who stops it; None: it stopped by itself.
    ending: Ending | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    #: Who waits for QEMU to have removed a device, by its alias.
    removals: dict[str, asyncio.Future[bool]] = field(default_factory=dict)
    #: Who waits for a tray to open.
    trays: Trays = field(default_factory=Trays)
    #: The cables that QEMU was heard to take up, by its name of its end; and whether that was one more.
    joined: set[str] = field(default_factory=set)
    has_joined: asyncio.Event = field(default_factory=asyncio.Event)
    #: Consoles that are open, by alias.
    consoles: dict[str, ConsoleLink] = field(default_factory=dict)
    watcher: asyncio.Task[None] | None = None
    _monitor: Monitor | None = None

    @property
    def monitor(self) -> Monitor:
        """The monitor.

        :raise InternalError: before it is connected.
        """
        if self._monitor is None:
            raise InternalError(f"QEMU {self.process.pid} has no monitor yet")
        return self._monitor

    @property
    def trace(self) -> list[str]:
        """The last messages of the monitor; none before it is connected."""
        return [] if self._monitor is None else self._monitor.trace

    def announce(self) -> None:
        """Those who were told of it find it again: this returns when that it runs is on record."""
        self.announced = True
        self.recording.flush()

    def link(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def forget(self) -> None:
        """In a forked child: drop the copy of the monitor, or QEMU would not notice when the parent is gone."""
        descriptor = self.socket.detach()
        if descriptor >= 0:
            os.close(descriptor)
        for capture in self.captures:
            capture.forget()

    async def unlink(self) -> None:
        """Hang up all that talks to QEMU."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for console in tuple(self.consoles.values()):
            await console.close()
        if self.agent is not None:
            await self.agent.close()
        if self._monitor is not None:
            await self._monitor.close()
        self.socket.close()

    @property
    def cpu_time_ns(self) -> int:
        """CPU time QEMU has used, in nanoseconds; 0 once it has ended."""
        # libvirt: qemuGetProcessInfo; fields 14 and 15 of proc(5), counted after the parenthesized name
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0
        return (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")

    def background(self, task: asyncio.Task[None]) -> None:
        """Keep TASK until it is done, and end it with the machine."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def wait_gone(self) -> None:
        """Wait until QEMU hung up, having been heard to the end, and exited."""
        waits = [asyncio.ensure_future(self.monitor.wait_closed()), asyncio.ensure_future(self.process.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait(waits, timeout=EXIT_TIMEOUT_S)
        finally:
            for wait in waits:
                wait.cancel()

    async def wait_ended(self, timeout: float) -> None:
        """Wait until the machine has been taken apart.

        :raise OperationTimeout: when that takes longer than TIMEOUT seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                await self.ended.wait()
        except TimeoutError:
            raise OperationTimeout(f"process {self.process.pid} did not end within {timeout:g} s") from None
