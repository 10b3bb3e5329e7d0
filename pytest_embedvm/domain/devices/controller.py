"""`<controller>`: what other devices plug into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.domain.devices._base import Bus, Context, Device
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import DevicePart, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Whole


@dataclass(kw_only=True)
class Controller(Device):
    alias_prefix: ClassVar[str] = "controller"

    type: Annotated[
        Literal["ide", "fdc", "scsi", "sata", "virtio-serial", "ccid", "usb", "pci", "xenbus", "isa"],
        Refusal("Unknown controller type '{}'", ConfigUnsupported),
    ]
    index: int = -1
    model: str | None = None
    model_name: Annotated[str | None, At("model/@name")] = None
    chassis: Annotated[int | None, At("target/@chassis")] = None
    port: Annotated[int | None, At("target/@port"), Whole(digits=1)] = None

    @property
    def bus(self) -> Bus | None:
        return "pcie"

    def own_alias(self, number: int) -> str:
        # libvirt: qemuAssignDeviceControllerAlias
        if self.type == "pci":
            return "pcie.0" if self.model == "pcie-root" else f"pci.{self.index}"
        return f"{self.type}{self.index}"

    def parts(self, context: Context) -> Iterable[Part]:
        if self.model in ("pcie-root", "pci-root"):
            return
        yield DevicePart({"driver": self.model, "id": self.id} | self.place(context))
