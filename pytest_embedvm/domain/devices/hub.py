"""`<hub>`: more USB ports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.domain.addresses.usb import HUB_PORTS
from pytest_embedvm.domain.devices._base import Bus, Context, Device
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import DevicePart, Part
from pytest_embedvm.xml.scalars import Refusal


@dataclass(kw_only=True)
class Hub(Device):
    alias_prefix: ClassVar[str] = "hub"

    type: Annotated[Literal["usb"], Refusal("unknown hub device type '{}'", ConfigUnsupported)]

    @property
    def bus(self) -> Bus:
        return "usb"

    @property
    def usb_ports(self) -> int:
        return HUB_PORTS

    @property
    def command_line_turn(self) -> int:
        return 50  # after controllers, before what may sit in its ports (libvirt: qemuBuildCommandLine)

    def parts(self, context: Context) -> Iterable[Part]:
        yield DevicePart({"driver": "usb-hub", "id": self.id} | self.place(context))
