"""One QEMU's half of a migration: told what to do by commands, heard by its MIGRATION events."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: The name under which QEMU knows the descriptor it was given.
_NAME: Final = "migrate"

#: How long QEMU may take to call off what it sends.
CANCEL_TIMEOUT_S: Final = 10.0

#: How long QEMU may take, once it has sent its guest, until that can run again.
FINISH_TIMEOUT_S: Final = 10.0

#: QEMU's last words on a migration; there are no others after them.
COMPLETED: Final = "completed"
CANCELLED: Final = "cancelled"
FAILED: Final = "failed"
_ENDS: Final = (COMPLETED, CANCELLED, FAILED)


#: How often QEMU has a guest that has come announce its cards: at once, after 10 s, 20 s more, and so on, for a day.
#: Once is enough, and a clone's addresses are still the template's then. But when it has done so for the last time QEMU
#: 7.2 frees the timer, and crashes when the guest resets a virtio card after that (virtio_net_reset).
_ANNOUNCING: Final = {
    "announce-rounds": 1000,
    "announce-initial": 10_000,
    "announce-step": 10_000,
    "announce-max": 100_000,
}


class Transfer:
    """How far the migration of one QEMU is."""

    def __init__(self, *, stops_at_io_errors: bool = False) -> None:
        self.status = "none"
        #: Whether a guest that is paused by an I/O error is not to be moved.
        self.stops_at_io_errors = stops_at_io_errors
        self.io_error = False
        self._ended = asyncio.Event()
        self._over = asyncio.Event()
        self._cancelling = asyncio.Event()

    def report(self, status: str) -> None:
        """QEMU says STATUS."""
        self.status = status
        if status in _ENDS:
            self._ended.set()
            self._over.set()
        elif status == "cancelling":
            self._cancelling.set()

    def report_io_error(self) -> None:
        """The guest was paused by an I/O error."""
        if self.stops_at_io_errors:
            self.io_error = True
            self._over.set()

    @property
    def under_way(self) -> bool:
        return self.status != "none" and self.status not in _ENDS

    async def wait_ended(self) -> None:
        """Wait until QEMU is done with it, well or not."""
        await self._ended.wait()

    async def wait_over(self) -> None:
        """Wait until it has ended, or is not to go on."""
        await self._over.wait()

    async def wait_cancelling(self) -> None:
        """Wait until QEMU was told to call it off, which it does when what it is writing has been taken."""
        await self._cancelling.wait()


def may_run(machine: Machine) -> bool:
    """Whether the guest of MACHINE, which is active, may run while it is sent; says in the log why not."""
    live = machine.live
    if live is None or live.type == "kvm":
        return True
    capabilities = machine.driver.host.capabilities(live.devices.emulator or "")
    if capabilities.loses_emulated_memory:
        version = ".".join(map(str, capabilities.version))
        machine.root.log.about(machine.name).info(
            "paused while it is sent: QEMU %s can lose what an emulated guest writes meanwhile", version
        )
        return False
    return True


async def set_up(
    running: Running,
    *,
    throttle: Mapping[str, int] | None = None,
    ignore_shared: bool = False,
    arriving: bool = False,
    **parameters: int,
) -> None:
    """Have QEMU tell how its migration goes, and set what it needs.

    :param throttle: QEMU's parameters for slowing a guest down that dirties memory too fast; None: it is not slowed.
    :param ignore_shared: memory in a file that is shared is not sent: who loads the rest has that file.
    :param arriving: the guest is one that comes.
    """
    capabilities = {"events": True, "auto-converge": throttle is not None, "x-ignore-shared": ignore_shared}
    states = [{"capability": name, "state": state} for name, state in capabilities.items()]
    await running.monitor.execute("migrate-set-capabilities", {"capabilities": states})
    chosen = {name.replace("_", "-"): value for name, value in {**(throttle or {}), **parameters}.items()}
    chosen |= _ANNOUNCING if arriving else {}
    if chosen:
        await running.monitor.execute("migrate-set-parameters", chosen)


async def send(running: Running, sock: socket.socket) -> None:
    """Have QEMU send its guest through SOCK, which becomes QEMU's own."""
    sock.setblocking(True)  # libvirt: qemuMigrationSrcConnect
    await write(running, sock.detach())


async def receive(running: Running, sock: socket.socket) -> None:
    """Have QEMU take the guest that comes through SOCK, which becomes QEMU's own."""
    sock.setblocking(True)
    await read(running, sock.detach())


async def write(running: Running, descriptor: int) -> None:
    """Have QEMU write its guest to DESCRIPTOR, which becomes QEMU's own."""
    await running.monitor.execute("migrate", {"uri": await hand_over(running, descriptor)})


async def read(running: Running, descriptor: int) -> None:
    """Have QEMU read its guest from DESCRIPTOR, which becomes QEMU's own."""
    await running.monitor.execute("migrate-incoming", {"uri": await hand_over(running, descriptor)})


async def hand_over(running: Running, descriptor: int) -> str:
    """Give QEMU DESCRIPTOR, which becomes its own; returns the name by which commands know it."""
    try:
        running.monitor.send_descriptor(descriptor)
        await running.monitor.execute("getfd", {"fdname": _NAME})
    finally:
        os.close(descriptor)
    return f"fd:{_NAME}"


async def wait_finished(running: Running) -> None:
    """Wait until the guest, which QEMU has sent, can run again: a moment after it was said to be sent, untold.

    :raise OperationTimeout: when that takes longer than 10 s.
    """
    try:
        async with asyncio.timeout(FINISH_TIMEOUT_S):
            while (await running.monitor.execute("query-status"))["status"] == "finish-migrate":
                pass
    except TimeoutError:
        raise OperationTimeout(
            f"QEMU did not finish its migration within {FINISH_TIMEOUT_S:g} s; last seen: finish-migrate"
        ) from None


async def query(running: Running) -> dict[str, Any]:
    """QEMU's own figures."""
    answer: dict[str, Any] = await running.monitor.execute("query-migrate")
    return answer


async def first(*awaited: Coroutine[Any, Any, object], timeout: float | None = None) -> int | None:
    """Wait until one of AWAITED is done; returns which, or None when that takes longer than TIMEOUT seconds.

    What it raises is raised.
    """
    tasks = [asyncio.ensure_future(each) for each in awaited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED, timeout=timeout)
        done = next((number for number, task in enumerate(tasks) if task.done()), None)
        if done is not None:
            tasks[done].result()
        return done
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
