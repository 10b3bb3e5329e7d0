"""`<qemu:commandline>`: words of the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Final

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
class Commandline:
    """What is appended to QEMU's command line and environment, as it is."""

    arguments: Annotated[list[Argument], At(f"{{{NAMESPACE}}}arg")] = field(default_factory=list)
    environment: Annotated[list[Variable], At(f"{{{NAMESPACE}}}env")] = field(default_factory=list)

    def parts(self) -> Iterable[Part]:
        if self.arguments:
            yield OptionPart(tuple(argument.value for argument in self.arguments))
