"""Ports of the host that lead into a guest behind user-mode networking: `<portForward>`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import YesNo

#: The most ports that slirp is asked to forward: each is a hostfwd of its own on a command line that has an end.
SLIRP_FORWARDS: Final = 1000

#: A line of `info usernet`: `  TCP[HOST_FORWARD]  13       127.0.0.1 43217       10.0.2.15    22     0     0`.
_USERNET: Final = re.compile(r"\s*(TCP|UDP)\[HOST_FORWARD\]\s+\d+\s+(\S+)\s+(\d+)\s+(\S+)\s+(\d+)\s")
_HUB: Final = re.compile(r"Hub \S+ \((\S+)\):|VLAN -?\d+ \((\S+)\):")


@dataclass(kw_only=True)
class Range:
    """Ports of the host, from `start` to `end`, to those of the guest from `to` on; or ports to leave out.

    A `start` of 0 is one port, and the host's kernel chooses which: `PortForward.learn()` fills it in.
    """

    start: int | None = None
    end: int | None = None
    to: int | None = None
    exclude: Annotated[bool | None, YesNo()] = None
    #: Whether the host's kernel chose `start`, so that it is no part of the definition.
    chosen: bool = field(default=False, metadata={"xml": False})

    @property
    def ports(self) -> range:
        """The host's ports."""
        start = self.start or 0
        return range(start, (self.end or start) + 1)

    @property
    def target(self) -> int:
        """The guest's first port."""
        return self.to or self.start or 0


@dataclass(kw_only=True)
class PortForward:
    """Ports of the host at `address`, on all of its addresses without one."""

    proto: Literal["tcp", "udp"]
    address: str | None = None
    dev: str | None = None
    ranges: Annotated[list[Range], At("range")] = field(default_factory=list)

    def check(self) -> None:
        """Refuse what is no address, no port, or no range.

        :raise XMLError: naming the value.
        """
        if self.address is not None:
            _check_address(self.address)
        for ports in self.ranges:
            _check_range(ports)

    def check_slirp(self) -> None:
        """Refuse what QEMU's own user-mode network cannot forward.

        :raise ConfigUnsupported: naming element and value.
        """
        if self.dev is not None:
            raise _needs_passt(f"dev='{self.dev}' of element <portForward>")
        if self.address is not None and ":" in self.address:
            raise _needs_passt(f"address='{self.address}' of element <portForward>")
        if not any(not ports.exclude for ports in self.ranges):
            raise _needs_passt("element <portForward> without a <range>")
        if sum(len(ports.ports) for ports in self.ranges) > SLIRP_FORWARDS:
            raise _needs_passt(f"forwarding of more than {SLIRP_FORWARDS} ports")

    def check_passt(self) -> None:
        """Refuse what passt cannot be asked for.

        :raise ConfigUnsupported: when a free port is to be chosen: passt does not tell which one it took.
        """
        if any(ports.start == 0 for ports in self.ranges):
            raise ConfigUnsupported("start='0' of element <range> is not supported with backend type 'passt'")

    def slirp(self) -> Iterator[str]:
        """QEMU's `hostfwd`, one for each port."""
        left_out = {port for ports in self.ranges if ports.exclude for port in ports.ports}
        for ports in (r for r in self.ranges if not r.exclude):
            for offset, port in enumerate(ports.ports):
                if port not in left_out:
                    yield f"{self.proto}:{self.address or ''}:{port}-:{ports.target + offset}"

    def passt(self) -> tuple[str, str]:
        """Passt's option and its argument (libvirt: qemuPasstStart)."""
        where = (self.address or "") + (f"%{self.dev}" if self.dev else "")
        ports = ",".join(_passt_range(r) for r in self.ranges) or "all"
        return f"--{self.proto}-ports", f"{where}/{ports}" if where else ports

    def learn(self, found: Forwarded) -> bool:
        """Fill in the port of FOUND where one was to be chosen; whether it was asked for here."""
        if found.proto != self.proto or found.address != _shown(self.address):
            return False
        for ports in self.ranges:
            if ports.start == 0 and ports.to == found.to:
                ports.start, ports.chosen = found.start, True
                return True
        return False

    def forget_live(self) -> None:
        """Drop the ports that were chosen for a running domain."""
        for ports in self.ranges:
            if ports.chosen:
                ports.start, ports.chosen = 0, False

    @property
    def is_given(self) -> bool:
        """Whether one of the host's ports was asked for by its number."""
        return not self.ranges or any(ports.start != 0 and not ports.chosen for ports in self.ranges)


@dataclass(frozen=True)
class Forwarded:
    """A forward that QEMU has opened: the host's address (`*` for all) and port, the guest's port."""

    netdev: str
    proto: str
    address: str
    start: int
    to: int


def read_usernet(text: str) -> Iterator[Forwarded]:
    """The forwards that the human monitor's `info usernet` lists."""
    netdev = ""
    for line in text.splitlines():
        if hub := _HUB.match(line):
            netdev = hub[1] or hub[2]
        elif found := _USERNET.match(line):
            proto, address, start, _, to = found.groups()
            yield Forwarded(netdev, proto.lower(), address, int(start), int(to))


def _shown(address: str | None) -> str:
    """ADDRESS as `info usernet` shows it."""
    return "*" if address is None or ipaddress.ip_address(address).is_unspecified else address


def _passt_range(ports: Range) -> str:
    text = f"{'~' if ports.exclude else ''}{ports.start}"
    if ports.end is not None:
        text += f"-{ports.end}"
    if ports.to is not None:
        text += f":{ports.to}" + (f"-{ports.to + len(ports.ports) - 1}" if ports.end is not None else "")
    return text


def _needs_passt(what: str) -> ConfigUnsupported:
    return ConfigUnsupported(f"{what} is only supported with backend type 'passt'")


def _check_address(address: str) -> None:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        # libvirt: virDomainNetPortForwardParseXML
        raise XMLError(f"Invalid address '{address}' in <portForward>", origin=ErrorDomain.DOMAIN) from None


def _check_range(ports: Range) -> None:
    if ports.start is None:
        raise XMLError("Missing required attribute 'start' in element 'range'")
    if ports.start == 0 and (ports.to is None or ports.end is not None or ports.exclude):
        raise XMLError("start='0' of element 'range' is one port: it needs a 'to', and takes no 'end' and no 'exclude'")
    if ports.to is not None and (ports.exclude or ports.to == 0):
        raise XMLError(f"Invalid value for attribute 'to' in element 'range': '{ports.to}'.")
    if not ports.ports:
        raise XMLError(f"Invalid value for attribute 'end' in element 'range': '{ports.end}'.")
    if max(ports.start, ports.target) + len(ports.ports) - 1 > 65535:
        raise XMLError(f"ports of element 'range' with start='{ports.start}' go beyond 65535")
