"""`<parallel>`: a parallel port."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.domain.backends.chardev import Chardev
from pytest_embedvm.domain.devices._base import Bus, Context
from pytest_embedvm.domain.devices._character import CharacterDevice, next_port
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal


@dataclass(kw_only=True)
class Parallel(CharacterDevice):
    alias_prefix: ClassVar[str] = "parallel"
    console_turn: ClassVar[int | None] = 3
    host_port: ClassVar[Literal["serial", "parallel"]] = "parallel"

    chardev: Annotated[Chardev, At(".")]
    port: Annotated[int | None, At("target/@port"), Refusal("Invalid port number: {}")] = None

    @property
    def bus(self) -> Bus:
        return "isa"

    def complete(self, context: Context) -> None:
        super().complete(context)
        if self.port is None:
            self.port = next_port(d.port for d in context.domain.devices.all if isinstance(d, Parallel))

    def check(self, context: Context) -> None:
        if self.chardev.type == "spicevmc":
            raise ConfigUnsupported("spicevmc device type only supports virtio")  # libvirt: virDomainChrDefPostParse
        super().check(context)
        context.capabilities.require_device("isa-parallel")

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildParallelChrDeviceProps
        yield self.backend(context)
        yield self.frontend("isa-parallel", self.place(context))
