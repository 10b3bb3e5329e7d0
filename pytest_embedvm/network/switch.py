"""A learning Ethernet switch: which ports a frame goes to. It holds no socket and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_embedvm.network.frames import HEADER_BYTES

#: The most addresses that are remembered: a guest that makes them up must not fill our memory.
MOST_ADDRESSES: Final = 4096


@dataclass(eq=False)
class Port:
    """One end of a cable. What the gateway and the uplink are on, `inner`, no partition cuts off."""

    name: str
    up: bool = True
    #: Where it stands in a partition; ports of different sides do not see each other.
    side: int = 0
    inner: bool = False


@dataclass
class Switch:
    """Ports, and who was seen behind each."""

    ports: list[Port] = field(default_factory=list)
    _behind: dict[bytes, Port] = field(default_factory=dict)

    def plug(self, port: Port) -> None:
        self.ports.append(port)

    def unplug(self, port: Port) -> None:
        """Take PORT away, and forget who was behind it."""
        self.ports.remove(port)
        self.forget(port)

    def forget(self, port: Port) -> None:
        """Forget who was behind PORT: its cable was pulled."""
        self._behind = {address: other for address, other in self._behind.items() if other is not port}

    def receive(self, port: Port, frame: bytes) -> Iterable[Port]:
        """The ports that FRAME, which came in at PORT, goes out of."""
        if len(frame) < HEADER_BYTES or not port.up:
            return ()
        target, source = frame[:6], frame[6:12]
        if not source[0] & 1:
            self._learn(source, port)
        known = None if target[0] & 1 else self._behind.get(target)
        if known is None:
            return self._others(port)
        return (known,) if known is not port and _see(port, known) else ()

    def _learn(self, address: bytes, port: Port) -> None:
        if self._behind.get(address) is not port and (address in self._behind or len(self._behind) < MOST_ADDRESSES):
            self._behind[address] = port

    def _others(self, port: Port) -> Iterator[Port]:
        return (other for other in self.ports if other is not port and _see(port, other))

    def partition(self, sides: Iterable[Iterable[Port]]) -> None:
        """Have only ports of one side see each other; those that no side names are a side of their own."""
        self.heal()
        for number, side in enumerate(sides, start=1):
            for port in side:
                port.side = number

    def heal(self) -> None:
        """Have all ports see each other again."""
        for port in self.ports:
            port.side = 0


def _see(one: Port, other: Port) -> bool:
    return other.up and (one.inner or other.inner or one.side == other.side)
