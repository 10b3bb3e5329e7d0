"""`<input>`: mice, tablets, keyboards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.virtio import WithDriver
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationUnsupported
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Offered, Refusal

_TYPE: Final = Offered(
    ("mouse", "tablet", "keyboard"),
    {kind: f"input type '{kind}' is not supported by this driver" for kind in ("passthrough", "evdev")},
    Refusal("unknown input device type '{}'", ConfigUnsupported),
)
_PLUGGABLE: Final = ("usb", "virtio")
_USB_DRIVERS: Final = {"mouse": "usb-mouse", "tablet": "usb-tablet", "keyboard": "usb-kbd"}


@dataclass(kw_only=True)
class Input(WithDriver, Device):
    alias_prefix: ClassVar[str] = "input"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    type: Annotated[str | None, _TYPE] = None
    plugs_into: Annotated[
        Literal["ps2", "usb", "virtio", "xen", "parallels", "none"] | None,
        At("@bus"),
        Refusal("unknown input bus type '{}'", ConfigUnsupported),
    ] = None
    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional"] | None = None

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: qemuDomainDefAddDefaultDevices: the board of every PC has both
        there = {(d.type, d._completed_bus()) for d in context.domain.devices.all if isinstance(d, cls)}
        if context.domain.os.arch in ("x86_64", "i686"):
            yield from (cls(type=t, plugs_into="ps2") for t in ("mouse", "keyboard") if (t, "ps2") not in there)

    def _completed_bus(self) -> Literal["ps2", "usb", "virtio", "xen", "parallels", "none"]:
        # libvirt: virDomainInputDefPostParse
        return self.plugs_into or ("usb" if self.type == "tablet" else "ps2")

    @property
    def bus(self) -> Bus | None:
        buses: dict[str | None, Bus] = {"usb": "usb", "virtio": "pcie"}
        return buses.get(self.plugs_into)

    def complete(self, context: Context) -> None:
        self.plugs_into = self._completed_bus()

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.INPUT

    def check(self, context: Context) -> None:
        # libvirt: virDomainInputDefParseXML, virDomainInputDefValidate, qemuValidateDomainDeviceDefInput
        if self.type is None:
            raise InternalError("missing input device type", origin=ErrorDomain.DOMAIN)
        if self.plugs_into == "ps2" and self.type == "tablet":
            raise InternalError("ps2 bus does not support tablet input device", origin=ErrorDomain.DOMAIN)
        if self.plugs_into == "xen":
            raise InternalError("unsupported input bus xen", origin=ErrorDomain.DOMAIN)
        if self.plugs_into in ("parallels", "none"):
            raise ConfigUnsupported(f"input bus '{self.plugs_into}' is not supported by this driver")
        if self.model and self.plugs_into != "virtio":
            raise ConfigUnsupported(f"only bus 'virtio' is supported for input model '{self.model}'")
        if self.model not in (None, "virtio"):
            raise ConfigUnsupported(
                f"virtio (non-)transitional models are not supported for input type={self.type}",
                origin=ErrorDomain.QEMU,
            )
        if self.driver and self.plugs_into != "virtio":
            self.driver.check_absent()

    def check_plug(self) -> None:
        # libvirt: qemuDomainAttachInputDevice
        if self.plugs_into not in _PLUGGABLE:
            raise OperationUnsupported(f"input device on bus '{self.plugs_into}' cannot be hot plugged.")

    def check_unplug(self, others: Iterable[Device]) -> None:
        # libvirt: qemuDomainDetachPrepInput
        if self.plugs_into not in _PLUGGABLE:
            raise OperationUnsupported(f"input device on bus '{self.plugs_into}' cannot be detached")

    def parts(self, context: Context) -> Iterable[Part]:
        if self.plugs_into == "usb":
            yield DevicePart({"driver": _USB_DRIVERS[self.type or ""], "id": self.id} | self.place(context))
        elif self.plugs_into == "virtio":
            props: dict[str, Json] = {"driver": f"virtio-{self.type}-pci", **self.virtio_props(), "id": self.id}
            yield DevicePart(props | self.place(context))
