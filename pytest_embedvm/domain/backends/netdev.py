"""Network backends: what an `<interface>` is connected to on the host."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.forwards import PortForward
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import Card, Companion, Descriptor, Json, NetdevPart, Tap
from pytest_embedvm.xml.mapping import At

#: QEMU's word for each type that is a socket between QEMUs (libvirt: qemuBuildHostNetProps).
SOCKETS: Final = {"mcast": "mcast", "server": "listen", "client": "connect", "udp": "udp"}


@dataclass(kw_only=True)
class Local:
    """The near end of a UDP tunnel."""

    address: str | None = None
    port: int | None = None


@dataclass(kw_only=True)
class Source:
    """`<source>`; each type has attributes of its own."""

    type: str | None = None
    path: str | None = None
    network: str | None = None
    portgroup: str | None = None
    bridge: str | None = None
    name: str | None = None
    dev: str | None = None
    mode: str | None = None
    address: str | None = None
    port: int | None = None
    local: Local | None = None


@dataclass(kw_only=True)
class Ip:
    """`<ip>`: with slirp the guest's network, with passt the guest's address."""

    address: str | None = None
    family: Literal["ipv4", "ipv6"] = "ipv4"
    prefix: int | None = None
    peer: str | None = None

    def check(self) -> None:
        """Refuse what is no address.

        :raise XMLError: naming the value.
        :raise ConfigUnsupported: when it names a peer.
        """
        # libvirt: virDomainNetIPParseXML, qemuValidateDomainDeviceDefNetwork
        if self.address is None:
            raise XMLError("Missing required address in <ip>", origin=ErrorDomain.DOMAIN)
        try:
            parsed = ipaddress.ip_address(self.address)
        except ValueError:
            parsed = None
        if parsed is None or f"ipv{parsed.version}" != self.family:
            raise XMLError(f"Invalid address '{self.address}' in <ip>", origin=ErrorDomain.DOMAIN)
        if self.prefix is not None and self.prefix > parsed.max_prefixlen:
            raise XMLError(f"Invalid prefix value '{self.prefix}' in <ip>", origin=ErrorDomain.DOMAIN)
        if self.peer is not None:
            raise ConfigUnsupported("Invalid attempt to set peer IP for guest", origin=ErrorDomain.QEMU)

    def check_slirp(self) -> None:
        """Refuse a network that slirp has no room in.

        :raise XMLError: when the IPv4 prefix is out of range.
        :raise ConfigUnsupported: when the IPv6 prefix is not 64.
        """
        # libvirt: qemuValidateDomainDeviceDefNetwork
        if self.family == "ipv4" and self.prefix and not 4 <= self.prefix <= 27:
            raise XMLError("invalid prefix, must be in range of 4-27", origin=ErrorDomain.QEMU)
        if self.family == "ipv6" and self.prefix and self.prefix != 64:
            raise ConfigUnsupported(
                f"unsupported IPv6 address prefix='{self.prefix}' - must be 64", origin=ErrorDomain.QEMU
            )


@dataclass(kw_only=True)
class Backend:
    """`<backend>`: which program is the network; `default` is QEMU's own, slirp."""

    type: Literal["default", "passt"] | None = None
    log_file: Annotated[str | None, At("@logFile")] = None


def netdev_id(alias: str) -> str:
    """QEMU's id for the backend of the interface called ALIAS."""
    return f"host{alias}"  # libvirt: qemuBuildHostNetProps


def slirp(alias: str, ips: Sequence[Ip], forwards: Sequence[PortForward]) -> NetdevPart:
    """QEMU's own user-mode network."""
    props: dict[str, Json] = {"type": "user"}
    for ip in ips:
        if ip.family == "ipv4":
            props["net"] = f"{ip.address}/{ip.prefix}" if ip.prefix else ip.address
        else:
            props["ipv6-prefix"] = ip.address
            if ip.prefix:
                props["ipv6-prefixlen"] = ip.prefix
    hostfwd: list[Json] = [{"str": text} for forward in forwards for text in forward.slirp()]
    if hostfwd:
        props["hostfwd"] = hostfwd
    return NetdevPart(props | {"id": netdev_id(alias)})


def passt(alias: str, options: Sequence[str]) -> NetdevPart:
    """A passt on the other end of a socket pair; with `--fd` it ends when QEMU hangs up.

    The passt of Debian 12 stalls a forwarded connection on which the guest is to speak first.
    """
    argv = ("passt", "--foreground", "--quiet", "--fd", "{fd}", *options)
    end = Descriptor(netdev_id(alias), Companion(f"passt of {alias}", argv))
    address: dict[str, Json] = {"type": "fd", "str": end}
    return NetdevPart({"type": "stream", "addr": address, "server": False, "id": netdev_id(alias)})


def passt_options(
    backend: Backend, dev: str | None, ips: Sequence[Ip], forwards: Sequence[PortForward]
) -> Iterator[str]:
    """What passt is told of the network (libvirt: qemuPasstStart)."""
    if dev is not None:
        yield from ("--interface", dev)
    if backend.log_file is not None:
        yield from ("--log-file", backend.log_file)
    for ip in ips:
        yield from ("--address", ip.address or "")
        if ip.family == "ipv4" and ip.prefix:
            yield from ("--netmask", str(ip.prefix))
    for forward in forwards:
        yield from forward.passt()


def network(alias: str, card: Card) -> NetdevPart:
    """CARD, on a network of the root: QEMU listens at its path, so that who opens the root next can connect again."""
    end = Descriptor(netdev_id(alias), card)
    return NetdevPart({"type": "stream", "addr": {"type": "fd", "str": end}, "server": True, "id": netdev_id(alias)})


def tap(alias: str, bridge: str, mac: str, name: str | None, *, virtio: bool) -> NetdevPart:
    """A card in BRIDGE of the host's, through a tap device called NAME."""
    # libvirt: virNetDevGenerateName. Without vhost: the frames stay in QEMU, which needs no more than the tap.
    end = Descriptor(netdev_id(alias), Tap(bridge, mac, name or "vnet%d", virtio))
    return NetdevPart({"type": "tap", "fd": end, "vhost": False, "id": netdev_id(alias)})


def sockets(alias: str, kind: str, source: Source) -> NetdevPart:
    """A socket that carries frames to another QEMU."""
    # libvirt: qemuBuildHostNetProps
    props: dict[str, Json] = {"type": "socket", SOCKETS[kind]: f"{source.address or ''}:{source.port}"}
    if kind == "udp" and source.local:
        props["localaddr"] = f"{source.local.address}:{source.local.port}"
    return NetdevPart(props | {"id": netdev_id(alias)})


def check_sockets(kind: str, source: Source | None) -> None:
    """Refuse a source from which something is missing.

    :raise XMLError: naming element and attribute.
    """
    # libvirt: virDomainNetDefParseXML
    if source is None:
        raise XMLError(f"interface type='{kind}' requires a 'source' element", origin=ErrorDomain.DOMAIN)
    _require("source", source, ("port",) if kind == "server" else ("address", "port"))
    if kind != "udp":
        return
    if source.local is None:
        raise XMLError("'<local>' element missing for 'udp' socket interface", origin=ErrorDomain.DOMAIN)
    _require("local", source.local, ("address", "port"))


def _require(tag: str, element: Source | Local, attributes: Sequence[str]) -> None:
    for attribute in attributes:
        if getattr(element, attribute) is None:
            raise XMLError(f"Missing required attribute '{attribute}' in element '{tag}'")
