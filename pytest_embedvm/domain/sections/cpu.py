"""`<cpu>`: model, features, topology."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.parts import Json, KeyvalPart
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import OnOff

#: QEMU's own model where the machine type names none; libvirt: virQEMUCapsGetMachineDefaultCPU.
_DEFAULT_MODELS: Final = {"x86_64": "qemu64", "i686": "qemu32", "aarch64": "cortex-a57"}


@dataclass(kw_only=True)
class CpuFeature:
    """`<feature policy='disable' name='vmx'/>`."""

    policy: Literal["force", "require", "optional", "disable", "forbid"] = "require"
    name: str


@dataclass(kw_only=True)
class Topology:
    """`<topology sockets='1' dies='1' cores='2' threads='1'/>`."""

    sockets: int = 1
    dies: int = 1
    cores: int = 1
    threads: int = 1


@dataclass(kw_only=True)
class Cpu(Section):
    """The virtual CPU."""

    mode: Literal["custom", "host-model", "host-passthrough", "maximum"] | None = None
    match: Literal["minimum", "exact", "strict"] | None = None
    check_level: Annotated[Literal["none", "partial", "full"] | None, At("@check")] = None
    migratable: Annotated[bool | None, OnOff()] = None
    fallback: Annotated[Literal["allow", "forbid"] | None, At("model/@fallback")] = None
    model: Annotated[str | None, At("model")] = None
    vendor: Annotated[str | None, At("vendor")] = None
    topology: Topology | None = None
    features: Annotated[list[CpuFeature], At("feature")] = field(default_factory=list)

    def complete(self, context: Context) -> None:
        # libvirt: virCPUDefParseXML, qemuDomainDefCPUPostParse
        self.mode = self.mode or "custom"
        if self.mode == "custom":
            self.match = self.match or "exact"
            if not self.model:
                self.model, self.fallback = default_model(context), "forbid"
            self.fallback = self.fallback or "allow"
        elif self.mode == "host-passthrough":
            self.migratable = True if self.migratable is None else self.migratable
        self.check_level = self.check_level or ("partial" if self.mode == "host-model" else "none")

    def check(self, context: Context) -> None:
        domain = context.domain
        if self.mode == "host-passthrough" and domain.type != "kvm":
            # libvirt: qemuValidateDomainDefCpu
            raise ConfigUnsupported(
                f"CPU mode 'host-passthrough' for {domain.os.arch} {domain.type} domain on {domain.os.arch} host "
                "is not supported by hypervisor",
                origin=ErrorDomain.QEMU,
            )
        if self.model and self.model not in context.capabilities.cpus:
            raise InternalError(f"Unknown CPU model {self.model}", origin=ErrorDomain.CPU)
        if self.vendor:
            raise ConfigUnsupported(f"CPU vendor '{self.vendor}' is not supported", origin=ErrorDomain.QEMU)
        topology = self.topology
        if topology and topology.sockets * topology.dies * topology.cores * topology.threads != domain.vcpu.maximum:
            raise ConfigUnsupported("CPU topology doesn't match maximum vcpu count", origin=ErrorDomain.QEMU)

    def part(self, extra: Mapping[str, Json]) -> KeyvalPart:
        """-cpu, with what other sections add."""
        # libvirt: qemuBuildCpuModelArgStr; host-model is QEMU's own idea of the host, not libvirt's expansion of it
        names = {"host-passthrough": "host", "host-model": "max", "maximum": "max"}
        props: dict[str, Json] = {}
        if self.mode == "host-passthrough" and self.migratable is not None:
            props["migratable"] = self.migratable
        for feature in self.features:
            props[feature.name] = feature.policy not in ("disable", "forbid")
        return KeyvalPart("-cpu", self.model or names.get(self.mode or "", ""), props | dict(extra))


def default_model(context: Context) -> str:
    """The model a machine has when the domain names none."""
    arch = context.domain.os.arch or ""
    machine = context.capabilities.resolve_machine(context.domain.os.machine or "")
    typename = machine.default_cpu_type
    model = next((m.name for m in context.capabilities.cpus.values() if m.typename == typename), None)
    return model or _DEFAULT_MODELS.get(arch, "max")
