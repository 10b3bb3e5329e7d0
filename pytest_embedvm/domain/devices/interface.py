"""`<interface>`: a network card."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, Self, cast

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import PciAddress
from pytest_embedvm.domain.backends import netdev
from pytest_embedvm.domain.backends.forwards import Forwarded, PortForward
from pytest_embedvm.domain.backends.netdev import Backend, Ip, Source
from pytest_embedvm.domain.backends.nic import Driver, Rom
from pytest_embedvm.domain.backends.virtio import pci_driver
from pytest_embedvm.domain.devices import _interface_update
from pytest_embedvm.domain.devices._base import BootClass, Bus, Context, Device, PciTurn
from pytest_embedvm.errors import (
    ConfigUnsupported,
    InvalidArgument,
    NoDevice,
    OperationFailed,
    XMLError,
)
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import Card, Command, DevicePart, Json, NetdevPart, Part
from pytest_embedvm.xml.bandwidth import Bandwidth
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Scalar, Where

#: Models that sit in a conventional PCI slot; what libvirt does not know gets a PCI Express port
#: (libvirt: qemuDomainDeviceCalculatePCIConnectFlags).
_CONVENTIONAL: Final = frozenset({
    "netfront", "rtl8139", "e1000", "virtio-transitional", "spapr-vlan", "lan9118", "scm91c111", "vlance", "vmxnet",
    "vmxnet2", "vmxnet3", "Am79C970A", "Am79C973", "82540EM", "82545EM", "82543GC",
})  # fmt: skip
_VIRTIO: Final = ("virtio", "virtio-transitional", "virtio-non-transitional")
_MODEL: Final = re.compile(r"[A-Za-z0-9_-]+")
#: Names that libvirt gives to the host's end of a running domain's interface, and takes away again.
_GENERATED: Final = ("vnet", "macvtap", "macvlan")
_OCTET: Final = re.compile(r"[0-9A-Fa-f]{1,2}")


class _Mac(Scalar[str]):
    """Six hexadecimal octets; written in lower case."""

    def read(self, text: str, where: Where) -> str:
        # libvirt: virMacAddrParse, virDomainNetDefParseXML
        octets = text.split(":")
        if len(octets) != 6 or not all(_OCTET.fullmatch(octet) for octet in octets):
            raise XMLError(f"unable to parse mac address '{text}'", origin=ErrorDomain.DOMAIN)
        if int(octets[0], 16) & 1:
            raise XMLError(f"expected unicast mac address, found multicast '{text}'", origin=ErrorDomain.DOMAIN)
        return ":".join(octet.lower().zfill(2) for octet in octets)

    def write(self, value: str) -> str:
        return value


@dataclass(kw_only=True)
class Interface(Device):
    alias_prefix: ClassVar[str] = "net"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True
    changeable: ClassVar[bool] = True

    type: Literal[
        "user", "mcast", "server", "client", "udp", "network", "bridge", "direct", "ethernet", "vhostuser", "internal",
        "hostdev", "vdpa", "null", "vds",
    ] = "user"  # fmt: skip
    mac: Annotated[str | None, At("mac/@address"), _Mac()] = None
    source: Source | None = None
    bandwidth: Bandwidth | None = None
    target_dev: Annotated[str | None, At("target/@dev")] = None
    ips: Annotated[list[Ip], At("ip")] = field(default_factory=list)
    forwards: Annotated[list[PortForward], At("portForward")] = field(default_factory=list)
    model: Annotated[str | None, At("model/@type")] = None
    driver: Driver | None = None
    backend: Backend | None = None
    link: Annotated[
        Literal["up", "down"] | None,
        At("link/@state"),
        Refusal("unknown interface link state '{}'", ConfigUnsupported),
    ] = None
    mtu: Annotated[int | None, At("mtu/@size")] = None
    boot_order: Annotated[int | None, At("boot/@order")] = None
    alias: Annotated[str | None, At("alias/@name")] = None
    rom: Rom | None = None
    acpi_index: Annotated[int | None, At("acpi/@index")] = None

    @property
    def bus(self) -> Bus | None:
        if self.model == "usb-net":
            return "usb"
        return "pci" if self.model in _CONVENTIONAL else "pcie"

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.INTERFACE

    @property
    def boot_class(self) -> BootClass | None:
        return "network"

    @property
    def own_boot_order(self) -> int | None:
        return self.boot_order

    @property
    def is_virtio(self) -> bool:
        return self.model in _VIRTIO

    @property
    def uses_passt(self) -> bool:
        return self.backend is not None and self.backend.type == "passt"

    def complete(self, context: Context) -> None:
        self.mac = self.mac or context.host.new_mac()
        self.model = self.model or _default_model(context.capabilities)
        self.mtu = self.mtu or None
        self.forget_live()
        if self.driver and not self.is_virtio and self.driver.says_nothing:
            self.driver = None  # libvirt: virDomainNetDefFormat

    def forget_live(self) -> None:
        if self.target_dev and self.target_dev.startswith(_GENERATED):
            self.target_dev = None  # libvirt: virDomainNetDefParseXML
        if self.type == "network" and self.source:
            self.source.bridge = None
        for forward in self.forwards:
            forward.forget_live()

    @property
    def bridge(self) -> str | None:
        """The host's bridge that its card is in; of a network's, once `allocate` has said so."""
        return self.source.bridge if self.source and self.type in ("bridge", "network") else None

    def allocate(self, bridge: str) -> None:
        """Its network is this BRIDGE of the host's, as long as the domain runs."""
        # libvirt: virDomainNetAllocateActualDevice
        if self.source:
            self.source.bridge = bridge

    def check(self, context: Context) -> None:
        self._check_type()
        self._check_model()
        self._check_host()
        for ip in self.ips:
            ip.check()
        for forward in self.forwards:
            forward.check()
        if self.type == "user":
            self._check_user(context)
        if self.driver:
            self.driver.check(str(self.mac), self.type, virtio=self.is_virtio)
        if self.rom:
            self.rom.check()

    def _check_type(self) -> None:
        if self.type in netdev.SOCKETS:
            netdev.check_sockets(self.type, self.source)
        elif self.type in ("bridge", "network"):
            self._check_named(self.type)
        elif self.type != "user":
            raise ConfigUnsupported(f"<interface type='{self.type}'> is not supported", origin=ErrorDomain.QEMU)
        if self.type != "user" and (self.ips or self.forwards or self.backend):
            raise ConfigUnsupported(
                f"<ip>, <portForward> and <backend> are not supported for <interface type='{self.type}'>",
                origin=ErrorDomain.QEMU,
            )

    def _check_named(self, what: str) -> None:
        """Its source is a network's or a bridge's name."""
        if self.source is None or not getattr(self.source, what):
            raise XMLError(f"Missing required attribute '{what}' in element 'source'")
        for name, value in vars(self.source).items():
            if value is not None and name != what and (name, what) != ("portgroup", "network"):
                raise ConfigUnsupported(
                    f"'{name}' of element <source> is not supported for <interface type='{self.type}'>",
                    origin=ErrorDomain.QEMU,
                )

    def _check_model(self) -> None:
        if not _MODEL.fullmatch(self.model or ""):
            # libvirt: virDomainNetSetModelString
            raise InvalidArgument("Model name contains invalid characters", origin=ErrorDomain.DOMAIN)
        for value, attribute, element in ((self.boot_order, "order", "boot"), (self.acpi_index, "index", "acpi")):
            if value == 0:
                # libvirt: virXMLPropUInt with VIR_XML_PROP_NONZERO
                raise XMLError(
                    f"Invalid value for attribute '{attribute}' in element '{element}': Zero is not permitted"
                )

    def _check_host(self) -> None:
        if self.bandwidth:
            self.bandwidth.check(ErrorDomain.QEMU)
        if self.bandwidth and self.type != "network":
            # libvirt: qemuBuildInterfaceCommandLine warns, and goes on
            raise ConfigUnsupported(
                f"setting bandwidth on interfaces of type '{self.type}' is not implemented yet", origin=ErrorDomain.QEMU
            )
        if self.mtu is not None and self.type != "network":
            # libvirt: qemuValidateDomainDeviceDefNetwork
            raise ConfigUnsupported(
                f"setting MTU on interface type {self.type} is not supported yet", origin=ErrorDomain.QEMU
            )
        if self.target_dev is not None and self.type != "bridge":
            raise ConfigUnsupported(
                f"target dev='{self.target_dev}' is not supported for <interface type='{self.type}'>: "
                "it has no device on the host",
                origin=ErrorDomain.QEMU,
            )

    def _check_user(self, context: Context) -> None:
        for family, name in (("ipv4", "IPv4"), ("ipv6", "IPv6")):
            if sum(ip.family == family for ip in self.ips) > 1:
                # libvirt: qemuValidateDomainDeviceDefNetwork
                raise ConfigUnsupported(f"Only one {name} address per interface is allowed", origin=ErrorDomain.QEMU)
        self._check_source()
        if self.uses_passt:
            context.capabilities.require_netdev("stream")
            for forward in self.forwards:
                forward.check_passt()
            return
        context.capabilities.require_netdev("user")
        for ip in self.ips:
            ip.check_slirp()
        for forward in self.forwards:
            forward.check_slirp()
        if self.backend and self.backend.log_file:
            raise ConfigUnsupported(f"logFile='{self.backend.log_file}' needs backend type 'passt'")

    def _check_source(self) -> None:
        for name, value in vars(self.source or Source()).items():
            if value is not None and not (name == "dev" and self.uses_passt):
                raise ConfigUnsupported(
                    f"'{name}' of element <source> is not supported for this <interface type='user'>",
                    origin=ErrorDomain.QEMU,
                )

    def clone_obstacle(self) -> str | None:
        if self.type not in ("user", "network"):
            return f"an interface of type '{self.type}' is one thing of the host's"
        if any(forward.is_given for forward in self.forwards):
            return "a given port of the host's that leads into it is one thing"
        return None

    def renew(self, new_mac: Callable[[], str]) -> None:
        # QEMU's own NAT is behind one card alone, and goes on with the address that it gave to that card's MAC.
        if self.type != "user":
            self.mac = new_mac()

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildInterfaceCommandLine
        yield self._netdev(context)
        yield self._nic(context)

    def _netdev(self, context: Context) -> NetdevPart:
        if self.bridge:
            context.capabilities.require_netdev("tap")
            self._check_tap()
            return netdev.tap(self.id, self.bridge, str(self.mac), self.target_dev, virtio=self.is_virtio)
        if self.type == "network" and self.source and self.source.network:
            context.capabilities.require_netdev("stream")
            path = context.host.path("net", context.domain.name, self.id)
            rates = self.bandwidth.rates if self.bandwidth else None
            network, group = self.source.network, self.source.portgroup
            return netdev.network(self.id, Card(path, network, str(self.mac), context.domain.name, group, rates))
        if self.type in netdev.SOCKETS:
            return netdev.sockets(self.id, self.type, self.source or Source())
        if self.backend and self.uses_passt:
            dev = self.source.dev if self.source else None
            return netdev.passt(self.id, tuple(netdev.passt_options(self.backend, dev, self.ips, self.forwards)))
        return netdev.slirp(self.id, self.ips, self.forwards)

    def _check_tap(self) -> None:
        for value, what in ((self.bandwidth, "<bandwidth>"), (self.mtu, "<mtu>")):
            if value is not None:
                raise ConfigUnsupported(
                    f"{what} is only supported on a private network: bridge '{self.bridge}' is the host's",
                    origin=ErrorDomain.QEMU,
                )

    def _nic(self, context: Context) -> DevicePart:
        # libvirt: qemuBuildNicDevProps
        model = str(self.model)
        props: dict[str, Json] = {"driver": pci_driver("virtio-net", model) if self.is_virtio else model}
        props |= self.driver.props() if self.driver else {}
        if self.mtu and self.is_virtio:
            props["host_mtu"] = self.mtu
        props |= {"netdev": netdev.netdev_id(self.id), "id": self.id, "mac": self.mac}
        props |= context.boot_index(self) | self.place(context)
        if self.acpi_index:
            props["acpi-index"] = self.acpi_index
        return DevicePart(props | (self.rom.props() if self.rom else {}))

    def commands(self, context: Context) -> Iterable[Command]:
        if self.link == "down":
            # libvirt: qemuProcessSetLinkStates
            yield Command("set_link", {"name": self.id, "up": False})

    def redefined(self, described: Self) -> Self:
        new = super().redefined(described)
        new.mac, new.model = new.mac or self.mac, new.model or self.model
        return new

    def updated(self, described: Self) -> Self:
        return cast("Self", _interface_update.updated(self, described))

    def update_commands(self) -> Iterable[Command]:
        yield Command("set_link", {"name": self.id, "up": self.link != "down"})

    def find(self, others: Iterable[Device], *, live: bool) -> Device:
        # libvirt: virDomainNetFindIdx
        found = [o for o in others if isinstance(o, Interface) and self._describes(o)]
        if len(found) > 1:
            raise OperationFailed(f"multiple devices matching MAC address {self.mac} found", origin=ErrorDomain.DOMAIN)
        if not found:
            address = str(self.address) if isinstance(self.address, PciAddress) else "(<null>)"
            raise NoDevice(
                f"no device found at address '{address}' matching MAC address '{self.mac or '(<null>)'}' "
                f"and alias '{self.alias or '(<null>)'}'",
                origin=ErrorDomain.DOMAIN,
            )
        return found[0]

    def _describes(self, other: Interface) -> bool:
        return (
            self.mac in (None, other.mac)
            and self.alias in (None, other.alias)
            and (not isinstance(self.address, PciAddress) or str(self.address) == str(other.address))
        )

    @property
    def awaits_ports(self) -> bool:
        """Whether the host's kernel chooses a port that `learn()` has to be told of."""
        return any(ports.start == 0 for forward in self.forwards for ports in forward.ranges)

    def learn(self, found: Iterable[Forwarded]) -> None:
        """Fill in the ports that the host's kernel has chosen (`info usernet`)."""
        for forwarded in found:
            if forwarded.netdev == netdev.netdev_id(self.id):
                any(forward.learn(forwarded) for forward in self.forwards)


def _default_model(capabilities: Capabilities) -> str:
    # libvirt: qemuDomainDefaultNetModel
    return next((model for model in ("rtl8139", "e1000") if capabilities.has_device(model)), "virtio")
