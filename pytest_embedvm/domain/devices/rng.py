"""`<rng>`: a source of entropy for the guest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.virtio import pci_bus, pci_driver
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, NoDevice
from pytest_embedvm.qemu.parts import DevicePart, Json, ObjectPart, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal


@dataclass(kw_only=True)
class Rng(Device):
    alias_prefix: ClassVar[str] = "rng"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    model: Annotated[
        Literal["virtio", "virtio-transitional", "virtio-non-transitional"],
        Refusal("unknown RNG model '{}'", ConfigUnsupported),
    ] = "virtio"
    rate_bytes: Annotated[int | None, At("rate/@bytes")] = None
    rate_period: Annotated[int | None, At("rate/@period")] = None  # milliseconds
    backend: Annotated[
        Literal["random", "egd", "builtin"],
        At("backend/@model"),
        Refusal("unknown RNG backend model '{}'", ConfigUnsupported),
    ] = "random"
    source: Annotated[str | None, At("backend")] = None

    @property
    def bus(self) -> Bus:
        return pci_bus(self.model)

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.RNG

    def complete(self, context: Context) -> None:
        if self.backend == "random" and not (self.source or "").strip():
            self.source = "/dev/urandom"  # libvirt: virDomainRNGDefPostParse

    def check(self, context: Context) -> None:
        if self.backend == "egd":
            raise ConfigUnsupported("RNG backend model 'egd' is not supported", origin=ErrorDomain.QEMU)
        context.capabilities.require_device("virtio-rng-pci")

    def missing(self, *, live: bool) -> EmbedError:
        # libvirt: qemuDomainDetachPrepRNG, qemuDomainDetachDeviceConfig
        if live:
            return NoDevice(f"model '{self.backend}' RNG device not present in domain configuration")
        return NoDevice("no matching RNG device was found")

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildRNGBackendProps, qemuBuildRNGDevProps
        backend: dict[str, Json] = {"qom-type": f"rng-{self.backend}", "id": f"obj{self.id}"}
        if self.backend == "random":
            backend["filename"] = self.source
        yield ObjectPart(backend)
        device: dict[str, Json] = {
            "driver": pci_driver("virtio-rng", self.model),
            "rng": f"obj{self.id}",
            "id": self.id,
        }
        if self.rate_bytes is not None:
            # libvirt's default period is one second
            device |= {"max-bytes": self.rate_bytes, "period": self.rate_period or 1000}
        yield DevicePart(device | self.place(context))
