"""A learning Ethernet switch: which ports a frame goes to. It holds no socket and no clock."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from pytest_embedvm.network.frames import HEADER_BYTES
from pytest_embedvm.network.partition import Fault

#: The most addresses that are remembered: a guest that makes them up must not fill our memory.
MOST_ADDRESSES: Final = 4096


@dataclass(eq=False)
class Port:
    """One end of a cable. What the gateway and the uplink are on, `inner`, no partition cuts off."""

    name: str
    inner: bool = False


@dataclass
class Switch:
    """Ports, and who was seen behind each."""

    ports: list[Port] = field(default_factory=list)
    #: What is wrong with the network at present, all of it at once.
    faults: list[Fault] = field(default_factory=list)
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
        if len(frame) < HEADER_BYTES:
            return ()
        target, source = frame[:6], frame[6:12]
        if not source[0] & 1:
            self._learn(source, port)
        known = None if target[0] & 1 else self._behind.get(target)
        if known is None:
            return self._others(port)
        return (known,) if known is not port and self._hears(known, port) else ()

    def _learn(self, address: bytes, port: Port) -> None:
        if self._behind.get(address) is not port and (address in self._behind or len(self._behind) < MOST_ADDRESSES):
            self._behind[address] = port

    def _others(self, port: Port) -> Iterator[Port]:
        return (other for other in self.ports if other is not port and self._hears(other, port))

    def _hears(self, target: Port, source: Port) -> bool:
        if not self.faults or source.inner or target.inner:
            return True
        return not any(fault.blocks(source.name, target.name) for fault in self.faults)
