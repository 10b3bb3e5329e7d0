"""`<os>`: machine type, kernel, firmware, boot order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.errors import XMLError
from pytest_embedvm.qemu.parts import Part, option
from pytest_embedvm.xml.mapping import At


@dataclass(kw_only=True)
class Boot:
    """`<boot dev='hd'/>`."""

    dev: str


@dataclass(kw_only=True)
class Os:
    """How the machine is made and what it boots."""

    arch: Annotated[str | None, At("type/@arch")] = None
    machine: Annotated[str | None, At("type/@machine")] = None
    type: Annotated[str | None, At("type")] = None
    kernel: Annotated[str | None, At("kernel")] = None
    initrd: Annotated[str | None, At("initrd")] = None
    cmdline: Annotated[str | None, At("cmdline")] = None
    boot: list[Boot] = field(default_factory=list)

    @property
    def machine_family(self) -> str:
        """`q35`, `i440fx`, `microvm`, `virt` or `none`: what decides buses and implicit devices."""
        name = self.machine or ""
        for family in ("q35", "i440fx", "microvm", "virt"):
            if family in name:
                return family
        return "i440fx" if name in ("pc", "") else name

    def complete(self, context: Context) -> None:
        if self.machine:
            self.machine = context.capabilities.resolve_machine(self.machine).name
        elif context.capabilities.default_machine:
            self.machine = context.capabilities.default_machine.name

    def check(self, context: Context) -> None:
        if not self.type:
            raise XMLError("an os <type> must be specified", origin=ErrorDomain.DOMAIN)

    def parts(self, context: Context) -> Iterable[Part]:
        for name in ("kernel", "initrd"):
            path = getattr(self, name)
            if path:
                yield option(f"-{name}", path)
        if self.cmdline:
            yield option("-append", self.cmdline)
