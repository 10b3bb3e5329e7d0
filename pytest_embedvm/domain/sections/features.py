"""`<features>`: what the machine has, or has not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.xml.mapping import At, Present
from pytest_embedvm.xml.scalars import OnOff


@dataclass(kw_only=True)
class Features(Section):
    """Switches of the machine; the order is libvirt's."""

    acpi: Annotated[bool, Present()] = False
    apic: Annotated[bool, Present()] = False
    pae: Annotated[bool, Present()] = False
    hap: Annotated[bool, Present()] = False
    hap_state: Annotated[bool | None, At("hap/@state"), OnOff()] = None
    kvm_hidden: Annotated[bool | None, At("kvm/hidden/@state"), OnOff()] = None
    pmu: Annotated[bool | None, At("pmu/@state"), OnOff()] = None
    vmport: Annotated[bool | None, At("vmport/@state"), OnOff()] = None
    smm: Annotated[bool | None, At("smm/@state"), OnOff()] = None
    ioapic: Annotated[Literal["kvm", "qemu"] | None, At("ioapic/@driver")] = None
    vmcoreinfo: Annotated[bool, Present()] = False
    vmcoreinfo_state: Annotated[bool | None, At("vmcoreinfo/@state"), OnOff()] = None

    def complete(self, context: Context) -> None:
        if self.hap and self.hap_state is None:
            self.hap_state = True  # libvirt: virDomainFeaturesDefParse
        if self.vmcoreinfo and self.vmcoreinfo_state is None:
            self.vmcoreinfo_state = True

    def check(self, context: Context) -> None:
        if context.is_q35 and self.smm and not context.capabilities.has_machine_property("q35", "smm"):
            raise ConfigUnsupported("smm is not supported by this QEMU")

    def machine_props(self, context: Context) -> Mapping[str, Json]:
        # libvirt: qemuBuildMachineCommandLine
        props: dict[str, Json] = {} if self.acpi else {"acpi": False}
        if self.vmport is not None:
            props["vmport"] = self.vmport
        if self.smm is not None:
            props["smm"] = self.smm
        if self.ioapic is not None:
            props["kernel_irqchip"] = "on" if self.ioapic == "kvm" else "split"
        return props

    def cpu_props(self, context: Context) -> Mapping[str, Json]:
        props: dict[str, Json] = {}
        if self.kvm_hidden:
            props["kvm"] = False
        if self.pmu is not None:
            props["pmu"] = self.pmu
        return props

    def parts(self, context: Context) -> Iterable[Part]:
        if self.vmcoreinfo_state:
            yield DevicePart({"driver": "vmcoreinfo"})
