"""A completed domain as QEMU's command line, in libvirt's order (libvirt: qemuBuildCommandLine)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.qemu import parts as qemu
from pytest_embedvm.qemu.parts import Descriptor, Descriptors, KeyvalPart, ObjectPart, Part, option
from pytest_embedvm.units import KIB


@dataclass(frozen=True)
class Launch:
    """What is to be started: the program, its parts, and what its environment gets on top."""

    emulator: str
    parts: tuple[Part, ...]
    environment: Mapping[str, str]

    @property
    def descriptors(self) -> list[Descriptor]:
        """What has to be opened first."""
        return qemu.descriptors(self.parts)

    def argv(self, numbers: Descriptors) -> list[str]:
        """The command line, with the numbers under which QEMU inherits the descriptors."""
        return [self.emulator, *qemu.argv(self.parts, numbers)]


def launch(domain: Completed, host: Host) -> Launch:
    """How DOMAIN is started. The monitor is not part of it: the driver adds its own."""
    context = Context(domain, host.capabilities(domain.devices.emulator or ""), host)
    commandline = domain.commandline
    environment = {v.name: v.value or "" for v in commandline.environment} if commandline else {}
    return Launch(domain.devices.emulator or "", tuple(_parts(context)), environment)


def _parts(context: Context) -> Iterator[Part]:
    domain = context.domain
    yield KeyvalPart("-name", "", {"guest": domain.name, "debug-threads": True})
    yield option("-S")
    yield from _machine(context)
    yield from _memory(context)
    yield from _vcpus(context)
    yield option("-uuid", str(domain.uuid))
    yield option("-no-user-config")
    yield option("-nodefaults")
    yield option("-no-shutdown")
    yield from domain.os.parts(context)
    yield option("-display", "none")
    for device in domain.devices.all:
        yield from device.parts(context)
    yield KeyvalPart("-msg", "", {"timestamp": True})
    if domain.commandline:
        yield from domain.commandline.parts()


def _machine(context: Context) -> Iterator[Part]:
    domain = context.domain
    machine = context.capabilities.resolve_machine(domain.os.machine or "")
    props: dict[str, qemu.Json] = {"usb": False, "dump-guest-core": False}
    if machine.default_ram_id:
        props["memory-backend"] = machine.default_ram_id
    yield KeyvalPart("-machine", machine.name, props)
    yield option("-accel", "kvm" if domain.type == "kvm" else "tcg")


def _memory(context: Context) -> Iterator[Part]:
    domain = context.domain
    machine = context.capabilities.resolve_machine(domain.os.machine or "")
    yield KeyvalPart("-m", "", {"size": f"{domain.memory}k"})
    if machine.default_ram_id:
        yield ObjectPart({"qom-type": "memory-backend-ram", "id": machine.default_ram_id, "size": domain.memory * KIB})
    yield option("-overcommit", "mem-lock=off")


def _vcpus(context: Context) -> Iterator[Part]:
    vcpu = context.domain.vcpu
    props: dict[str, qemu.Json] = {"sockets": vcpu.maximum, "cores": 1, "threads": 1}
    if vcpu.current is not None and vcpu.current != vcpu.maximum:
        props = {"maxcpus": vcpu.maximum, **props}
    yield KeyvalPart("-smp", str(vcpu.current or vcpu.maximum), props)
