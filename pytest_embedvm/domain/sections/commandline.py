"""`<qemu:commandline>`: words of the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.qemu.parts import OptionPart, Part
from pytest_embedvm.xml.mapping import At

NAMESPACE: Final = "http://libvirt.org/schemas/domain/qemu/1.0"


@dataclass(kw_only=True)
class Argument:
    value: str


@dataclass(kw_only=True)
class Variable:
    name: str
    value: str | None = None


@dataclass(kw_only=True)
class Commandline(Section):
    """What is appended to QEMU's command line and environment, as it is."""

    arguments: Annotated[list[Argument], At(f"{{{NAMESPACE}}}arg")] = field(default_factory=list)
    environment_variables: Annotated[list[Variable], At(f"{{{NAMESPACE}}}env")] = field(default_factory=list)

    def environment(self, context: Context) -> Mapping[str, str]:
        return {variable.name: variable.value or "" for variable in self.environment_variables}

    def parts(self, context: Context) -> Iterable[Part]:
        if self.arguments:
            yield OptionPart(tuple(argument.value for argument in self.arguments))
