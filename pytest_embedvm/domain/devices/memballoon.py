"""`<memballoon>`: memory the guest gives back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.virtio import WithDriver, given, pci_bus, pci_driver
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import OnOff


@dataclass(kw_only=True)
class Memballoon(Device, WithDriver):
    alias_prefix: ClassVar[str] = "balloon"

    model: Literal["virtio", "virtio-transitional", "virtio-non-transitional", "xen", "none"]
    autodeflate: Annotated[bool | None, OnOff()] = None
    free_page_reporting: Annotated[bool | None, At("@freePageReporting"), OnOff()] = None
    stats_period: Annotated[int | None, At("stats/@period")] = None  # seconds

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: qemuDomainDefAddDefaultDevices
        if not any(isinstance(device, cls) for device in context.domain.devices.all):
            yield cls(model="virtio")

    @property
    def bus(self) -> Bus | None:
        return None if self.model in ("none", "xen") else pci_bus(self.model)

    def own_alias(self, number: int) -> str | None:
        return None if self.model == "none" else super().own_alias(number)

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.MEMBALLOON

    def check(self, context: Context) -> None:
        if sum(isinstance(device, Memballoon) for device in context.domain.devices.all) > 1:
            raise InternalError("only a single memory balloon device is supported", origin=ErrorDomain.DOMAIN)
        if self.model == "xen":
            # libvirt: qemuValidateDomainDeviceDefMemballoon
            raise ConfigUnsupported(
                "Memory balloon device type 'xen' is not supported by this version of qemu", origin=ErrorDomain.QEMU
            )
        if self.model == "none" and self.driver:
            self.driver.check_absent()

    def parts(self, context: Context) -> Iterable[Part]:
        if self.model == "none":
            return
        # libvirt: qemuBuildMemballoonCommandLine; it sets the period over QMP, which is the same property
        props: dict[str, Json] = {"driver": pci_driver("virtio-balloon", self.model), **self.virtio_props()}
        props |= given(
            {
                "id": self.id,
                "deflate-on-oom": self.autodeflate,
                "free-page-reporting": self.free_page_reporting,
                "guest-stats-polling-interval": self.stats_period or None,
            }
        )
        yield DevicePart(props | self.place(context))
