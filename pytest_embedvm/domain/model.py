"""A domain: its XML as data."""

from __future__ import annotations

import uuid as uuids
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NewType

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.devices.controller import Controller
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.domain.sections.boot import Os
from pytest_embedvm.domain.sections.clock import Clock
from pytest_embedvm.domain.sections.commandline import NAMESPACE, Commandline
from pytest_embedvm.domain.sections.cpu import Cpu
from pytest_embedvm.domain.sections.features import Features
from pytest_embedvm.domain.sections.genid import GenerationId
from pytest_embedvm.domain.sections.memory import MemoryBacking, Vcpu
from pytest_embedvm.domain.sections.power import Action, CrashAction, PowerManagement
from pytest_embedvm.domain.sections.seclabel import Seclabel
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError, XMLSyntaxError
from pytest_embedvm.xml.mapping import At, Kept, Roster
from pytest_embedvm.xml.scalars import Memory, Refusal, Scalar, Where


class _Uuid(Scalar[uuids.UUID]):
    def read(self, text: str, where: Where) -> uuids.UUID:
        try:
            return uuids.UUID(text.strip())
        except ValueError:
            raise InternalError("malformed uuid element", origin=ErrorDomain.DOMAIN) from None

    def write(self, value: uuids.UUID) -> str:
        return str(value)


def _action(element: str) -> Refusal:
    return Refusal(f"unknown {element} action: {{}}", ConfigUnsupported)


# libvirt: virDomainVirtTypes
VirtType = Literal[
    "qemu", "kqemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox", "phyp", "parallels",
    "bhyve", "vz", "hvf",
]  # fmt: skip


@dataclass(kw_only=True)
class Devices:
    """`<devices>`: the emulator, and every device in the order of the document."""

    emulator: Annotated[str | None, At("emulator")] = None
    all: Annotated[list[Device], Roster(KINDS)] = field(default_factory=list)


@dataclass(kw_only=True)
class Domain:
    """A `<domain>`. Sizes are KiB. The order of the fields is the order of libvirt's XML."""

    type: Annotated[VirtType, Refusal("invalid domain type {}", ConfigUnsupported)]
    id: int | None = None
    name: Annotated[str, At("name")] = ""
    uuid: Annotated[uuids.UUID | None, At("uuid"), _Uuid()] = None
    genid: GenerationId | None = None
    title: Annotated[str | None, At("title")] = None
    description: Annotated[str | None, At("description")] = None
    metadata: Annotated[Any, Kept()] = None
    memory: Annotated[int, At("memory"), Memory()] = 0
    current_memory: Annotated[int | None, At("currentMemory"), Memory()] = None
    memory_backing: Annotated[MemoryBacking | None, At("memoryBacking")] = None
    vcpu: Vcpu = field(default_factory=Vcpu)
    os: Os = field(default_factory=Os)
    features: Features | None = None
    cpu: Cpu | None = None
    clock: Clock | None = None
    on_poweroff: Annotated[Action | None, At("on_poweroff"), _action("on_poweroff")] = None
    on_reboot: Annotated[Action | None, At("on_reboot"), _action("on_reboot")] = None
    on_crash: Annotated[CrashAction | None, At("on_crash"), _action("on_crash")] = None
    pm: PowerManagement | None = None
    devices: Devices = field(default_factory=Devices)
    seclabels: Annotated[list[Seclabel], At("seclabel")] = field(default_factory=list)
    commandline: Annotated[Commandline | None, At(f"{{{NAMESPACE}}}commandline")] = None

    @property
    def sections(self) -> list[Section]:
        """Every section that is there, in the order of QEMU's command line; the user's own words come last of all."""
        present = (self.genid, self.memory_backing, self.vcpu, self.clock, self.features, self.pm, self.cpu, self.os)
        return [section for section in (*present, *self.seclabels) if section is not None]

    def controller(self, kind: str, index: int) -> Controller:
        """The controller of this KIND and INDEX.

        :raise ConfigUnsupported: when the domain has none.
        """
        for controller in self._controllers():
            if (controller.type, controller.index) == (kind, index):
                return controller
        raise ConfigUnsupported(f"there is no '{kind}' controller with index '{index}'")

    def has_controller(self, kind: str, index: int) -> bool:
        """Whether there is a controller of this KIND and INDEX."""
        return any((c.type, c.index) == (kind, index) for c in self._controllers())

    def check_controllers(self) -> None:
        """Refuse two controllers in one's place, and USB beside no USB.

        :raise XMLError: when two have the same type and index.
        :raise XMLSyntaxError: when there is a USB controller beside the one that says there is none.
        """
        # libvirt: virDomainDefRejectDuplicateControllers
        usb = [c for c in self._controllers() if c.type == "usb"]
        if len(usb) > 1 and any(c.model == "none" for c in usb):
            raise XMLSyntaxError("Can't add another USB controller: USB is disabled for this domain")
        seen: set[tuple[str, int]] = set()
        for controller in (c for c in self._controllers() if c.type != "usb" or c.usb_ports):
            kind, index = controller.type, controller.index
            if (kind, index) in seen:
                # libvirt: virDomainUSBAddressSetAddController has its own sentence
                fault = "Duplicate USB controllers with index {1}" if kind == "usb" else None
                raise XMLError(
                    (fault or "Multiple '{0}' controllers with index '{1}'").format(kind, index),
                    origin=ErrorDomain.DOMAIN,
                )
            seen.add((kind, index))

    def pci_models(self) -> list[str | None]:
        """The model of each PCI controller, by index; None where one is missing below another."""
        models = {c.index: c.model for c in self._controllers() if c.type == "pci"}
        return [models.get(index) for index in range(max(models, default=-1) + 1)]

    def usb_ports(self) -> dict[int, int]:
        """How many devices fit on each USB controller, by index."""
        # libvirt: virDomainUSBAddressSetAddController leaves companions out
        return {c.index: c.usb_ports for c in self._controllers() if c.usb_ports}

    def virtio_serial_ports(self) -> dict[int, int | None]:
        """How many ports each virtio-serial controller has, by index; None for as many as it can."""
        return {c.index: c.ports for c in self._controllers() if c.type == "virtio-serial"}

    def _controllers(self) -> list[Controller]:
        return [device for device in self.devices.all if isinstance(device, Controller)]

    def copy(self) -> Domain:
        """A copy that shares nothing with this one."""
        return deepcopy(self)


#: A domain in which nothing is left open: only `complete()` makes one, only it has a command line.
Completed = NewType("Completed", Domain)
