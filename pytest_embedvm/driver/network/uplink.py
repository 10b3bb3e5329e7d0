"""A segment's way to the host: its gateway, the rules of what passes, and slirp behind them."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv4Network

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.host import EmbedHost
from pytest_embedvm.driver.network.datagrams import DatagramForward
from pytest_embedvm.driver.network.hostfwd import LOOPBACK
from pytest_embedvm.driver.network.segment import UNLIMITED, Segment, limited
from pytest_embedvm.driver.network.slirp import Slirp
from pytest_embedvm.errors import OperationInvalid
from pytest_embedvm.logs import Log
from pytest_embedvm.network import frames, uplink
from pytest_embedvm.network.definition import Network
from pytest_embedvm.network.frames import Frame
from pytest_embedvm.network.gateway import Question


class Uplink:
    """What one active network has behind it, if it has: begun when it is first needed, ended with the network.

    A network that leads out needs it from its start on; others once a port of a guest's is forwarded.
    """

    def __init__(self, network: Network, segment: Segment, host: EmbedHost, log: Log) -> None:
        self._name = network.name
        self._segment = segment
        self._host = host
        self._log = log
        self._leads_out = network.reaches_out
        subnets = tuple(ip.network for ip in network.ips if isinstance(ip.network, IPv4Network))
        self._rules = self._make_rules(segment.gateway.ipv4, subnets)
        rates = network.bandwidth.rates if network.bandwidth else UNLIMITED
        self._limited_outward = limited(rates.outbound, self._send)
        self._limited_inward = limited(rates.inbound, self._segment.inject)
        self._slirp: Slirp | None = None
        self._starting = asyncio.Lock()
        self._ended = False
        #: What is forwarded, by protocol, MAC and port.
        self._forwarded: dict[tuple[str, str, int], tuple[str, int]] = {}
        self._datagrams: dict[tuple[str, int], DatagramForward] = {}
        self._opening = asyncio.Lock()
        if self._rules is not None:
            segment.gateway.route = self._route

    def _make_rules(self, address: IPv4Address | None, subnets: tuple[IPv4Network, ...]) -> uplink.Uplink | None:
        if address is None:
            return None
        gateway = self._segment.gateway
        return uplink.Uplink(
            gateway.mac, address, subnets, leads_out=self._leads_out, where=self._where, answered=self._answered
        )

    async def require(self) -> Slirp:
        """The program behind it, which runs from here on.

        :raise OperationInvalid: when the network has no IPv4 address, or was stopped.
        :raise EmbedError: when it cannot be started; see `Slirp.start`.
        """
        rules = self._require_rules()
        async with self._starting:
            if self._slirp is None and not self._ended:
                slirp = await Slirp.start(self._host, rules.far, self._received, self._lost, leads_out=self._leads_out)
                if self._ended:  # the network was stopped meanwhile
                    await slirp.end()
                else:
                    self._begin(slirp)
        if self._slirp is None:
            raise OperationInvalid(f"network '{self._name}' is not active", origin=ErrorDomain.NETWORK)
        return self._slirp

    def _require_rules(self) -> uplink.Uplink:
        if self._rules is None:
            raise OperationInvalid(f"network '{self._name}' has no IPv4 address", origin=ErrorDomain.NETWORK)
        return self._rules

    def _begin(self, slirp: Slirp) -> None:
        self._slirp = slirp
        if self._leads_out:
            self._segment.gateway.ask = self._ask

    async def forward(self, mac: str, port: int, protocol: str) -> tuple[str, int]:
        """The host's address and port that lead to PORT of the card with this MAC; the same each time.

        They follow the card to whatever address it has.

        :raise EmbedError: as `require`; OPERATION_FAILED when no port can be opened.
        """
        key = (protocol, mac, port)
        async with self._opening:
            if key not in self._forwarded:
                self._forwarded[key] = await self._open(*key)
        return self._forwarded[key]

    async def _open(self, protocol: str, mac: str, port: int) -> tuple[str, int]:
        rules = self._require_rules()
        if protocol == "tcp":
            slirp = await self.require()
            return await slirp.forward(str(rules.place(frames.mac(mac))), port)
        opened = DatagramForward(self._segment, frames.mac(mac), port, self._where)
        self._datagrams[(mac, port)] = opened
        return (LOOPBACK, opened.port)

    async def close(self, mac: str) -> None:
        """Forward nothing any more to the card with this MAC."""
        async with self._opening:
            for protocol, at, port in [key for key in self._forwarded if key[1] == mac]:
                _, opened = self._forwarded.pop((protocol, at, port))
                if protocol == "udp":
                    self._datagrams.pop((mac, port)).close()
                elif self._slirp is not None:
                    await self._slirp.close(opened)

    def _route(self, frame: Frame) -> None:
        if any(opened.take(frame) for opened in self._datagrams.values()):
            return
        if self._rules is not None and self._slirp is not None and (out := self._rules.outward(frame)):
            self._segment.gateway.hear(IPv4Address(frame.payload[12:16]), frame.source)
            (self._limited_outward.send if self._limited_outward else self._send)([out])

    def _send(self, batch: list[bytes]) -> None:
        if self._slirp is not None:
            self._slirp.cable.send(batch)

    def _ask(self, question: Question) -> None:
        if self._rules is not None and self._slirp is not None:
            self._slirp.cable.send((self._rules.ask(question),))

    def _answered(self, question: Question, data: bytes) -> None:
        self._segment.inject((self._segment.gateway.resolved(question, data),))

    def _received(self, batch: list[bytes]) -> None:
        gateway, found = self._segment.gateway, list[bytes]()
        for data in batch:
            for inward in self._rules.inward(data) if self._rules else ():
                if inward.back and self._slirp:
                    self._slirp.cable.send((inward.data,))
                    continue
                mac = inward.mac or (gateway.neighbours.get(inward.to) if inward.to else None)
                if mac is not None:
                    found.append(bytes(Frame(mac, gateway.mac, frames.IPV4, inward.data)))
        if found:
            (self._limited_inward.send if self._limited_inward else self._segment.inject)(found)

    def _where(self, mac: bytes) -> IPv4Address | None:
        return self._segment.gateway.address_of(mac, asyncio.get_running_loop().time())

    def _lost(self) -> None:
        if not self._ended:
            self._log.error("network '%s' has lost its way out: its slirp has ended", self._name)

    async def end(self) -> None:
        """End what is behind it; nothing passes any more."""
        self._ended = True
        for limit in (self._limited_outward, self._limited_inward):
            if limit is not None:
                limit.close()
        self._segment.gateway.route = self._segment.gateway.ask = None
        for opened in self._datagrams.values():
            opened.close()
        slirp, self._slirp = self._slirp, None
        if slirp is not None:
            await slirp.end()

    def forget(self) -> None:
        """In a forked child: close what is the parent's."""
        for opened in self._datagrams.values():
            opened.forget()
        if self._slirp is not None:
            self._slirp.forget()
