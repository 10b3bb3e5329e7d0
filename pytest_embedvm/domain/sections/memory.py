"""`<memoryBacking>` and `<vcpu>`: what memory is made of, and how many CPUs there are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.parts import Descriptor, Json, Part, Scratch, option
from pytest_embedvm.xml.mapping import At, Present
from pytest_embedvm.xml.scalars import Refusal, Whole


@dataclass(kw_only=True)
class MemoryBacking(Section):
    """How the guest's memory is allocated."""

    nosharepages: Annotated[bool, Present()] = False
    locked: Annotated[bool, Present()] = False
    source: Annotated[Literal["file", "anonymous", "memfd"] | None, At("source/@type")] = None
    access: Annotated[Literal["shared", "private"] | None, At("access/@mode")] = None

    def check(self, context: Context) -> None:
        if self.access == "shared" and self.source not in ("memfd", "file"):
            raise ConfigUnsupported(
                "memory access mode 'shared' needs source type 'memfd' or 'file'", origin=ErrorDomain.QEMU
            )

    def machine_props(self, context: Context) -> Mapping[str, Json]:
        return {"mem-merge": False} if self.nosharepages else {}

    def backend(self, context: Context, name: str) -> dict[str, Json]:
        """The object NAME behind the guest's memory, without id and size."""
        # libvirt: qemuBuildMemoryBackendProps
        if self.source == "file":
            file = Scratch(context.host.path("ram", context.domain.name, name))
            path = Descriptor("ram", file, spelled="/proc/self/fd/{fd}")
            return {"qom-type": "memory-backend-file", "mem-path": path, "share": self.access == "shared"}
        if self.source != "memfd":
            return {"qom-type": "memory-backend-ram"}
        return {"qom-type": "memory-backend-memfd", "share": self.access == "shared"}

    def parts(self, context: Context) -> Iterable[Part]:
        yield option("-overcommit", f"mem-lock={'on' if self.locked else 'off'}")


@dataclass(kw_only=True)
class Vcpu(Section):
    """`<vcpu placement='static' current='1'>2</vcpu>`."""

    placement: Literal["static", "auto"] | None = None
    cpuset: str | None = None
    current: Annotated[int | None, Whole(refusal=Refusal("current vcpus count must be an integer"))] = None
    maximum: Annotated[int, At("."), Whole(refusal=Refusal("maximum vcpus count must be an integer"))] = 1

    def complete(self, context: Context) -> None:
        self.placement = self.placement or "static"  # libvirt: virDomainVcpuParse
        if self.current == self.maximum:
            self.current = None

    def check(self, context: Context) -> None:
        if self.maximum == 0:
            # libvirt: what virDomainNumaDefValidate makes of no CPUs at all
            raise InternalError("CPU IDs in <numa> exceed the <vcpu> count", origin=ErrorDomain.DOMAIN)
        if self.current is not None and self.current > self.maximum:
            raise ConfigUnsupported("maximum vCPU count must not be less than current vCPU count")
        if self.placement == "auto" or self.cpuset:
            what = "placement='auto'" if self.placement == "auto" else f"cpuset='{self.cpuset}'"
            raise ConfigUnsupported(f"pinning of vCPUs is not supported: <vcpu {what}>", origin=ErrorDomain.QEMU)
        machine = context.capabilities.resolve_machine(context.domain.os.machine or "")
        if self.maximum > machine.cpu_max:
            # libvirt: qemuValidateDomainDef
            raise ConfigUnsupported(
                f"Maximum CPUs greater than specified machine type limit {machine.cpu_max}", origin=ErrorDomain.QEMU
            )
