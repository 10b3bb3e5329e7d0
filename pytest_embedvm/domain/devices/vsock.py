"""`<vsock>`: sockets between guest and host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.virtio import WithDriver, pci_bus, pci_driver
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.xml.scalars import Unsigned, YesNo

#: libvirt: VMADDR_CID_HOST is 2, those below are reserved too
FIRST_CID = 3


@dataclass(kw_only=True)
class Cid:
    """`<cid auto='yes'/>` or `<cid auto='no' address='5'/>`: the guest's address."""

    auto: Annotated[bool | None, YesNo()] = None
    address: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Vsock(Device, WithDriver):
    alias_prefix: ClassVar[str] = "vsock"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] = "virtio"
    cid: Cid = field(default_factory=Cid)
    #: Whether the address was found for this run, and so is no part of the definition.
    own_cid: bool = field(default=False, metadata={"xml": False})

    @property
    def bus(self) -> Bus:
        return pci_bus(self.model)

    def complete(self, context: Context) -> None:
        if self.cid.auto is None:
            self.cid.auto = self.cid.address is None  # libvirt: virDomainVsockDefPostParse

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.VSOCK

    def check(self, context: Context) -> None:
        if sum(isinstance(device, Vsock) for device in context.domain.devices.all) > 1:
            raise XMLError("only a single vsock device is supported", origin=ErrorDomain.DOMAIN)
        if self.cid.address is not None and self.cid.address < FIRST_CID:
            raise ConfigUnsupported("guest CIDs must be >= 3")
        if self.cid.address is None and not self.cid.auto:
            raise ConfigUnsupported("<cid auto='no'/> of <vsock> needs an address")

    def settle(self, context: Context) -> None:
        self.own_cid = self.own_cid or self.cid.address is None
        self.cid.address = context.host.vsock_cid(self.cid.address)

    def forget_live(self) -> None:
        if self.own_cid:
            self.cid.address = None

    def clone_obstacle(self) -> str | None:
        return None if self.own_cid or self.cid.auto else f"vsock address {self.cid.address} is one thing of the host's"

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildVsockDevProps; QEMU opens /dev/vhost-vsock itself
        props: dict[str, Json] = {"driver": pci_driver("vhost-vsock", self.model), **self.virtio_props()}
        yield DevicePart(props | {"id": self.id, "guest-cid": self.cid.address} | self.place(context))
