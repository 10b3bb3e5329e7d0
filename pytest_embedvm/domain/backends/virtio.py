"""What virtio devices have in common: the driver's name on PCI, and the options of every virtio driver."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Json
from pytest_embedvm.xml.scalars import OnOff

_SUFFIXES: Final = {"virtio-transitional": "-pci-transitional", "virtio-non-transitional": "-pci-non-transitional"}


def pci_driver(device: str, model: str) -> str:
    """QEMU's name of a virtio device in libvirt's MODEL: `virtio-rng` is `virtio-rng-pci`."""
    # libvirt: qemuBuildVirtioDevGetConfig
    return device + _SUFFIXES.get(model, "-pci")


@dataclass(kw_only=True)
class VirtioOptions:
    """`<driver iommu='on' ats='on' packed='on' page_per_vq='on'/>`."""

    iommu: Annotated[bool | None, OnOff()] = None
    ats: Annotated[bool | None, OnOff()] = None
    packed: Annotated[bool | None, OnOff()] = None
    page_per_vq: Annotated[bool | None, OnOff()] = None

    def virtio_props(self) -> dict[str, Json]:
        """QEMU's properties, which stand right behind the driver's name (libvirt: qemuBuildVirtioDevProps)."""
        return given(
            {
                "iommu_platform": self.iommu,
                "ats": self.ats,
                "packed": self.packed,
                "page-per-vq": self.page_per_vq,
            }
        )

    def check_absent(self) -> None:
        """Return if no option is set, as it must be where the device is not virtio.

        :raise ConfigUnsupported: naming the first that is.
        """
        # libvirt: virDomainCheckVirtioOptionsAreAbsent
        for name in ("iommu", "ats", "packed", "page_per_vq"):
            if getattr(self, name) is not None:
                raise ConfigUnsupported(f"{name} driver option is only supported for virtio devices")


def given(props: Mapping[str, Json]) -> dict[str, Json]:
    """PROPS without those that are None."""
    return {name: value for name, value in props.items() if value is not None}


def pci_bus(model: str | None) -> Literal["pcie", "pci"]:
    """What a virtio device of libvirt's MODEL plugs into: a transitional one is a conventional PCI device."""
    # libvirt: qemuDomainDeviceCalculatePCIConnectFlags
    return "pci" if model == "virtio-transitional" else "pcie"


@dataclass(kw_only=True)
class WithDriver:
    """A `<driver>` of virtio options: as a base before `Device` it is written before `<address>`, else after it."""

    driver: VirtioOptions | None = None

    def virtio_props(self) -> dict[str, Json]:
        """QEMU's properties of the options that are set."""
        return self.driver.virtio_props() if self.driver else {}
