"""A UDP port of the host's loopback that leads to a guest. No stack is needed for that: a datagram is one packet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Final

from pytest_embedvm.driver.network.hostfwd import LOOPBACK
from pytest_embedvm.driver.network.segment import Segment
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.network import frames
from pytest_embedvm.network.frames import Datagram, Frame, Packet

#: The most who are remembered to have sent something; the one that came first gives way.
MOST_PEERS: Final = 1024
#: What one turn of the loop takes from the socket.
BATCH: Final = 64
#: The network's own host seems to send from these.
PORTS: Final = range(32768, 49152)

#: Where the card with a MAC is now.
Where = Callable[[bytes], IPv4Address | None]


class DatagramForward:
    """One such port. Each who sends to it appears to the guest as a port of the network's own host."""

    def __init__(self, segment: Segment, mac: bytes, port: int, where: Where) -> None:
        """Open a free port that leads to UDP port PORT of the card with this MAC.

        :raise OperationFailed: when none can be opened.
        """
        self._segment = segment
        self._mac, self._target, self._where = mac, port, where
        self._peers: dict[int, tuple[str, int]] = {}
        self._ports: dict[tuple[str, int], int] = {}
        self._numbers = itertools.cycle(PORTS)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.setblocking(False)
            self._socket.bind((LOOPBACK, 0))
        except OSError as error:
            self._socket.close()
            raise OperationFailed(f"UDP port {port} cannot be forwarded: {error.strerror}") from error
        self.port: int = self._socket.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):  # a peer that is gone is told of here
            for _ in range(BATCH):
                self._send(*self._socket.recvfrom(65535))

    def _send(self, payload: bytes, peer: tuple[str, int]) -> None:
        gateway, guest = self._segment.gateway, self._where(self._mac)
        if guest is None or gateway.ipv4 is None:
            return
        packet = Datagram(self._number(peer), self._target, payload).packet(gateway.ipv4, guest)
        self._segment.inject((bytes(Frame(self._mac, gateway.mac, frames.IPV4, bytes(packet))),))

    def _number(self, peer: tuple[str, int]) -> int:
        """The port that PEER appears as."""
        if peer not in self._ports:
            if len(self._ports) >= MOST_PEERS:
                first = next(iter(self._ports))
                del self._peers[self._ports.pop(first)]
            number = next(free for free in self._numbers if free not in self._peers)
            self._ports[peer] = number
            self._peers[number] = peer
        return self._ports[peer]

    def take(self, frame: Frame) -> bool:
        """Pass FRAME on if it is a guest's answer to somebody here; whether it is."""
        packet = Packet.read(frame.kind, frame.payload) if frame.source == self._mac else None
        if packet is None or packet.protocol != frames.UDP or packet.target != self._segment.gateway.ipv4:
            return False
        datagram = Datagram.read(packet.payload)
        peer = self._peers.get(datagram.target) if datagram and datagram.source == self._target else None
        if datagram is None or peer is None:
            return False
        with contextlib.suppress(BlockingIOError, OSError):  # lost, as datagrams are
            self._socket.sendto(datagram.payload, peer)
        return True

    def close(self) -> None:
        """Open no more."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()

    def forget(self) -> None:
        """In a forked child: close the copy of the socket, and leave the parent's loop alone."""
        if (descriptor := self._socket.detach()) >= 0:
            socket.close(descriptor)
