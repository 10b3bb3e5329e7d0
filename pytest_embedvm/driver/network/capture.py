"""What passes a card, as a file that grows while it passes: on the loop, but for the writing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.netdev import netdev_id
from pytest_embedvm.driver.network import links
from pytest_embedvm.driver.network.cable import Cable
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.errors import InvalidArgument, OperationInvalid, SystemFailure
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.logs import Log
from pytest_embedvm.network import pcap
from pytest_embedvm.qemu.monitor import CommandError, MonitorClosed

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running

#: Where captures are below the directory of logs, a directory for each domain.
FOLDER: Final = "capture"
#: How long QEMU may take to hang up once it was told to mirror no more.
HANG_UP_TIMEOUT_S: Final = 10.0


class Capture:
    """A pcap of one card; what does not fit into LIMIT bytes is left out."""

    def __init__(self, alias: str, path: Path, limit: int, log: Log) -> None:
        """:raise SystemFailure: when PATH cannot be made."""
        self.alias = alias
        self.path = path
        self.limit = limit
        #: How many frames are in the file, and how many are not because it was full.
        self.frames = self.left_out = 0
        self._log = log
        self._trouble = ""
        self._descriptor = _create(path)
        self._pending = bytearray(pcap.HEADER)
        self._size = len(pcap.HEADER)
        self._writing: asyncio.Task[None] | None = None
        self._source = contextlib.AsyncExitStack()
        self._closed = False
        #: From QEMU, where that sends copies.
        self.mirror: Cable | None = None
        self._turn()

    def see(self, frames: Iterable[bytes]) -> None:
        """Keep FRAMES, which pass now."""
        now = time.time_ns()
        for frame in frames:
            self._keep(pcap.record(now, frame))
        self._turn()

    def _keep(self, record: bytes) -> None:
        if self.left_out or self._size + len(record) > self.limit:
            self._leave_out()
            return
        self._size += len(record)
        self.frames += 1
        self._pending += record

    def _leave_out(self) -> None:
        # A shorter frame is left out as well: what is there is all up to a moment.
        if not self.left_out:
            self._trouble = self._trouble or f"it was full with {self.limit} bytes"
            self._log.warning("%s: %s, what comes now is not in it", self.path, self._trouble)
        self.left_out += 1

    def _turn(self) -> None:
        if self._writing is None and self._pending and self._descriptor >= 0:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._pending:
                data, self._pending = self._pending, bytearray()
                await asyncio.to_thread(_write_all, self._descriptor, data)
        except OSError as error:
            self._trouble, self.limit = f"it could not be written ({error.strerror})", 0
        finally:
            self._writing = None

    async def flush(self) -> None:
        """Return when all that has passed is in the file."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    async def begin(self, machine: Machine, running: Running, mac: str) -> None:
        """See what passes the card of MACHINE with this MAC.

        :raise CommandError: when QEMU cannot mirror it.
        """
        interface = links.card(machine, mac)
        try:
            private = interface.type == "network" and not interface.bridge
            link = links.link(machine, mac) if private else None
            if link is not None:
                link.taps.append(self.see)
                self._source.callback(link.taps.remove, self.see)
            else:
                await self._source.enter_async_context(_mirrored(running, self))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See no more, and finish the file; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        await self._source.aclose()
        await self.flush()
        os.close(self._descriptor)
        self._descriptor = -1

    def forget(self) -> None:
        """In a forked child: QEMU's copies are the parent's, and nobody here would take them."""
        if self.mirror is not None:
            self.mirror.forget()

    @property
    def summary(self) -> str:
        """What it holds, in a sentence."""
        kept = f"{self.path.name}: {self.frames} frames"
        return f"{kept}; {self._trouble}, and {self.left_out} more are not in it" if self._trouble else kept


async def capture(machine: Machine, mac: str, limit: int) -> Capture:
    """Begin a capture of the card of MACHINE with this MAC, of LIMIT bytes at most; it ends with the machine's run.

    :raise OperationInvalid: when it does not run.
    :raise InvalidArgument: when it has no such card, or LIMIT is too small for a file.
    :raise SystemFailure: when the file cannot be made.
    """
    if limit < len(pcap.HEADER):
        raise InvalidArgument(f"a capture of {limit} bytes is too small", origin=ErrorDomain.NETWORK)
    async with machine.changing("capture") as running:
        alias = links.card(machine, mac).id
        if running is None:
            raise OperationInvalid("domain is not running")
        path = _free_path(machine.root, machine.name, alias)
        made = Capture(alias, path, limit, machine.root.log.about(machine.name))
        await made.begin(machine, running, mac)
        running.captures.append(made)
        running.stack.push_async_callback(made.close)
    return made


def _free_path(root: Root, name: str, alias: str) -> Path:
    folder = root.directory(*PLACES["log"], FOLDER, file_name(name))
    names = itertools.chain([alias], (f"{alias}-{number}" for number in itertools.count(2)))
    return next(path for path in (folder / f"{file_name(free)}.pcap" for free in names) if not path.exists())


def _create(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error


def _write_all(descriptor: int, data: bytearray) -> None:
    with memoryview(data) as left:
        at = 0
        while at < len(left):
            at += os.write(descriptor, left[at:])


@contextlib.asynccontextmanager
async def _mirrored(running: Running, seen: Capture) -> AsyncIterator[None]:
    """Have QEMU send a copy of each frame of the card, both ways, while the block runs."""
    name = f"capture-{seen.path.stem}"
    lost = asyncio.Event()
    ours, theirs = socket.socketpair()
    seen.mirror = Cable(ours, seen.see, lost.set)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(seen.mirror.close)
        stack.push_async_callback(_hung_up, lost)
        with theirs:
            running.monitor.send_descriptor(theirs.fileno())
            await running.monitor.execute("getfd", {"fdname": name})
        await _add_mirror(running, seen.alias, name, stack)
        yield


async def _hung_up(lost: asyncio.Event) -> None:
    """Wait until all that was mirrored has come, and QEMU's end is closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(HANG_UP_TIMEOUT_S):
            await lost.wait()


async def _add_mirror(running: Running, alias: str, name: str, stack: contextlib.AsyncExitStack) -> None:
    socket_backend = {"addr": {"type": "fd", "data": {"str": name}}, "server": False}
    chardev = {"id": name, "backend": {"type": "socket", "data": socket_backend}}
    try:
        await running.monitor.execute("chardev-add", chardev)
    except CommandError:
        await _unless_gone(running, "closefd", {"fdname": name})
        raise
    stack.push_async_callback(_unless_gone, running, "chardev-remove", {"id": name})
    mirror = {"qom-type": "filter-mirror", "id": name, "netdev": netdev_id(alias), "queue": "all", "outdev": name}
    await running.monitor.execute("object-add", mirror)
    stack.push_async_callback(_unless_gone, running, "object-del", {"id": name})


async def _unless_gone(running: Running, command: str, arguments: dict[str, str]) -> None:
    """Execute COMMAND, unless QEMU has ended and all of it with it."""
    with contextlib.suppress(MonitorClosed):
        if running.monitor.connected:
            await running.monitor.execute(command, arguments)
