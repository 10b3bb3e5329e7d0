"""Ports that slirp opens while it runs, by the words of QEMU's human monitor: QMP has none for that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from pytest_embedvm.domain.backends.forwards import Forwarded, read_usernet
from pytest_embedvm.errors import OperationFailed

LOOPBACK: Final = "127.0.0.1"

#: Gives a line to a human monitor, and returns what that says.
Ask = Callable[[str], Awaitable[str]]


async def forward(ask: Ask, netdev: str, protocol: str, target: str, port: int) -> tuple[str, int]:
    """The host's address and port that lead to PORT of TARGET behind NETDEV; opened unless it is already.

    The kernel chooses the port, so that nobody else can take it in between.

    :param target: an address; empty: the guest that slirp gives its first address to, and only this is known again.
    :raise OperationFailed: when it cannot be opened; in QEMU's words.
    """
    before = await _open(ask, netdev, protocol, port)
    for entry in before if not target else ():
        if entry.address in (LOOPBACK, "*"):
            return (LOOPBACK, entry.start)
    said = (await ask(f"hostfwd_add {netdev} {protocol}:{LOOPBACK}:0-{target}:{port}")).strip()
    opened = [entry for entry in await _open(ask, netdev, protocol, port) if entry not in before]
    if said or len(opened) != 1:
        raise OperationFailed(f"{protocol} port {port} cannot be forwarded: {said or f'QEMU opened {opened}'}")
    return (LOOPBACK, opened[0].start)


async def remove(ask: Ask, netdev: str, protocol: str, port: int) -> None:
    """Close what `forward` has opened."""
    await ask(f"hostfwd_remove {netdev} {protocol}:{LOOPBACK}:{port}")


async def _open(ask: Ask, netdev: str, protocol: str, port: int) -> list[Forwarded]:
    found = read_usernet(await ask("info usernet"))
    return [entry for entry in found if (entry.netdev, entry.proto, entry.to) == (netdev, protocol, port)]
