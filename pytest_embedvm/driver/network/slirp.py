"""A user-mode network stack as a program of its own: a QEMU without a machine, whose slirp opens sockets for guests.

What parses guests' packets and talks to the outside is not in this process, and needs no privilege.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import socket
from collections.abc import Callable, Iterator
from typing import Final

from pytest_embedvm.driver.companions import last_words
from pytest_embedvm.driver.host import EmbedHost
from pytest_embedvm.driver.network import hostfwd
from pytest_embedvm.driver.network.cable import Cable
from pytest_embedvm.errors import EmbedError, OperationFailed
from pytest_embedvm.files import memory_file
from pytest_embedvm.network.uplink import Far
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.monitor import Monitor, MonitorClosed
from pytest_embedvm.qemu.process import Process

#: slirp's end, as QEMU calls it.
_STACK: Final = "slirp"


class Slirp:
    """One such program, as long as its network is active. It dies with this process."""

    def __init__(self, process: Process, monitor: Monitor, cable: Cable, sockets: list[socket.socket]) -> None:
        self.process = process
        self.cable = cable
        self._monitor = monitor
        self._sockets = sockets

    @classmethod
    async def start(
        cls,
        host: EmbedHost,
        far: Far,
        on_frames: Callable[[list[bytes]], None],
        on_lost: Callable[[], None],
        *,
        leads_out: bool,
    ) -> Slirp:
        """Start one that takes and gives frames.

        :param leads_out: without it, it only carries connections that come from the host.
        :raise EmbedError: when there is no QEMU for it, or it has no slirp; with its own words.
        """
        emulator = host.default_emulator(platform.machine())
        known = (await host.prepare(emulator)).capabilities
        known.require_netdev("user")
        known.require_netdev("stream")
        ours, theirs = socket.socketpair()
        ear, mouth = socket.socketpair()
        with memory_file("slirp") as said, theirs, mouth:
            argv = [emulator, *_options(known, far, mouth.fileno(), theirs.fileno(), leads_out=leads_out)]
            try:
                process = Process.spawn(argv, output=said, pass_fds=(theirs.fileno(), mouth.fileno()))
            except BaseException:
                ours.close()
                ear.close()
                raise
            mouth.close()
            theirs.close()
            try:
                monitor = await Monitor.connect(ear, "slirp")
            except BaseException as error:
                ours.close()
                await process.kill()
                if isinstance(error, MonitorClosed):
                    raise OperationFailed(f"user-mode network: {last_words(said) or error}") from error
                raise
        return cls(process, monitor, Cable(ours, on_frames, on_lost), [ours, ear])

    async def forward(self, target: str, port: int) -> tuple[str, int]:
        """Open a free TCP port of the loopback that leads to PORT of TARGET, an address on slirp's side.

        :raise OperationFailed: when it cannot be opened; in QEMU's words.
        """
        return await hostfwd.forward(self._ask, _STACK, "tcp", target, port)

    async def close(self, port: int) -> None:
        """Close PORT again, if there is anybody left to do that."""
        with contextlib.suppress(EmbedError):
            await hostfwd.remove(self._ask, _STACK, "tcp", port)

    async def _ask(self, line: str) -> str:
        return str(await self._monitor.execute("human-monitor-command", {"command-line": line}))

    async def end(self) -> None:
        """Have it end, whatever it does."""
        self.cable.close()
        try:
            await self.process.kill()
        finally:
            await self._monitor.close()

    def forget(self) -> None:
        """In a forked child: close what is the parent's, and tell nobody."""
        for sock in self._sockets:
            if (descriptor := sock.detach()) >= 0:
                os.close(descriptor)


def _options(known: Capabilities, far: Far, monitor: int, cable: int, *, leads_out: bool) -> Iterator[str]:
    yield from ("-no-user-config", "-nodefaults", "-display", "none", "-machine", "none", "-accel", "tcg")
    yield from ("-accel", "kvm", "-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control")
    addresses = {"net": str(far.network), "host": str(far.host), "dns": str(far.resolver)}
    stack = {"type": "user", "id": _STACK, **addresses, "ipv6": False, "restrict": not leads_out}
    end = {"type": "stream", "id": "cable", "server": False, "addr": {"type": "fd", "str": str(cable)}}
    for backend in (stack, end):
        hub = {"type": "hubport", "id": f"{backend['id']}-port", "hubid": 0, "netdev": backend["id"]}
        yield from ("-netdev", json.dumps(backend), "-netdev", json.dumps(hub))
    if known.has_option("sandbox", "elevateprivileges"):
        yield from ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
