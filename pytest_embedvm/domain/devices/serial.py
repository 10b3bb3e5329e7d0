"""`<serial>`: a serial port."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import ADDRESSES
from pytest_embedvm.domain.backends.chardev import Chardev
from pytest_embedvm.domain.devices._base import Bus, Context, PciTurn
from pytest_embedvm.domain.devices._character import CharacterDevice, next_port
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Json, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal

TargetType: TypeAlias = Literal[
    "isa-serial", "usb-serial", "pci-serial", "spapr-vio-serial", "system-serial", "sclp-serial", "isa-debug"
]
TargetModel: TypeAlias = Literal[
    "isa-serial", "usb-serial", "pci-serial", "spapr-vty", "pl011", "sclpconsole", "sclplmconsole", "16550a",
    "isa-debugcon",
]  # fmt: skip

#: Models, and the type each belongs to (libvirt: qemuDomainChrSerialTargetModelToTargetType); the first of a type
#: is its default.
_MODELS: Final[dict[TargetModel, TargetType]] = {
    "isa-serial": "isa-serial",
    "usb-serial": "usb-serial",
    "pci-serial": "pci-serial",
    "isa-debugcon": "isa-debug",
    "spapr-vty": "spapr-vio-serial",
    "sclpconsole": "sclp-serial",
    "sclplmconsole": "sclp-serial",
    "pl011": "system-serial",
    "16550a": "system-serial",
}

#: What each type that a PC has plugs into.
_BUSES: Final[dict[str, Bus]] = {
    "isa-serial": "isa", "usb-serial": "usb", "pci-serial": "pci", "isa-debug": "isa"
}  # fmt: skip


@dataclass(kw_only=True)
class Serial(CharacterDevice):
    alias_prefix: ClassVar[str] = "serial"
    console_turn: ClassVar[int | None] = 2
    logged: ClassVar[bool] = True

    chardev: Annotated[Chardev, At(".")]
    type: Annotated[
        TargetType | None,
        At("target/@type"),
        Refusal("unknown target type '{}' specified for character device", ConfigUnsupported),
    ] = None
    port: Annotated[int | None, At("target/@port"), Refusal("Invalid port number: {}")] = None
    model: Annotated[
        TargetModel | None,
        At("target/model/@name"),
        Refusal("unknown target model '{}' specified for character device", ConfigUnsupported),
    ] = None

    @property
    def bus(self) -> Bus | None:
        return _BUSES.get(self.type or "isa-serial")

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.SERIAL

    def complete(self, context: Context) -> None:
        super().complete(context)
        if self.port is None:
            self.port = next_port(d.port for d in context.domain.devices.all if isinstance(d, Serial))
        self.type = self.type or "isa-serial"  # libvirt: qemuDomainChrDefPostParse
        if self.model is None and self.type != "system-serial":
            self.model = next(model for model, owner in _MODELS.items() if owner == self.type)

    def check(self, context: Context) -> None:
        if self.chardev.type == "spicevmc":
            raise ConfigUnsupported("spicevmc device type only supports virtio")  # libvirt: virDomainChrDefPostParse
        super().check(context)
        self._check_target()
        context.capabilities.require_device(str(self.model))

    def _check_target(self) -> None:
        # libvirt: qemuDomainChrTargetDefValidate
        expected = _BUSES.get(str(self.type))
        if expected is None:
            raise ConfigUnsupported(
                f"Serial device with target type '{self.type}' and target model '{self.model or 'none'}' "
                "not compatible with guest architecture or machine type",
                origin=ErrorDomain.QEMU,
            )
        if self.address is not None and not isinstance(self.address, ADDRESSES[expected]):
            raise ConfigUnsupported(
                f"Target type '{self.type}' requires address type '{expected}'", origin=ErrorDomain.QEMU
            )
        owner = _MODELS[self.model or "isa-serial"]
        if owner != self.type:
            raise ConfigUnsupported(
                f"Target model '{self.model}' requires target type '{owner}'", origin=ErrorDomain.QEMU
            )

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildSerialChrDeviceProps
        index: dict[str, Json] = {"index": self.port} if self.type == "isa-serial" else {}
        yield self.backend(context)
        yield self.frontend(str(self.model), index | self.place(context))
