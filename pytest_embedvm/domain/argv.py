"""A completed domain as QEMU's command line, in libvirt's order (libvirt: qemuBuildCommandLine)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.domain.sections.cpu import Cpu
from pytest_embedvm.domain.sections.features import Features
from pytest_embedvm.domain.sections.memory import MemoryBacking
from pytest_embedvm.domain.settings import Settings
from pytest_embedvm.qemu import parts as qemu
from pytest_embedvm.qemu.parts import Command, Descriptor, Descriptors, KeyvalPart, ObjectPart, Part, option
from pytest_embedvm.units import KIB, MIB


@dataclass(frozen=True)
class Launch:
    """What is to be started: the program, its parts, and what its environment gets on top."""

    emulator: str
    parts: tuple[Part, ...]
    environment: Mapping[str, str]
    #: What QEMU has to be told once it is up, before the guest runs for the first time.
    commands: tuple[Command, ...] = field(default=(), repr=False)  # a password's too

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
    speakers = [*domain.sections, *([domain.commandline] if domain.commandline else [])]
    environment = {name: value for d in domain.devices.all for name, value in d.environment(context).items()}
    environment |= {name: value for s in speakers for name, value in s.environment(context).items()}
    commands = tuple(command for device in domain.devices.all for command in device.commands(context))
    return Launch(domain.devices.emulator or "", tuple(_parts(context)), environment, commands)


def _parts(context: Context) -> Iterator[Part]:
    domain, settings = context.domain, context.host.settings
    title = {"process": f"qemu:{domain.name}"} if settings.set_process_name else {}
    yield KeyvalPart("-name", "", {"guest": domain.name, **title, "debug-threads": True})
    yield option("-S")
    yield from _machine(context)
    yield from _memory(context)
    yield from _vcpus(context)
    yield option("-uuid", str(domain.uuid))
    yield option("-no-user-config")
    yield option("-nodefaults")
    yield option("-no-shutdown")
    yield from _deprecation(settings)
    if not any(device.is_display for device in domain.devices.all):
        yield option("-display", "none")
    for section in domain.sections:
        yield from section.parts(context)
    for device in sorted(domain.devices.all, key=lambda device: device.command_line_turn):
        yield from device.parts(context)
    yield from _sandbox(context)
    if settings.log_timestamp:
        yield KeyvalPart("-msg", "", {"timestamp": True})
    if domain.commandline:
        yield from domain.commandline.parts(context)


def _deprecation(settings: Settings) -> Iterator[Part]:
    # libvirt: qemuBuildCompatDeprecatedCommandLine
    if settings.deprecation_behavior != "none":
        props: dict[str, qemu.Json] = {"deprecated-output": "hide"}
        if settings.deprecation_behavior != "omit":
            props["deprecated-input"] = settings.deprecation_behavior
        yield KeyvalPart("-compat", "", props)


def _sandbox(context: Context) -> Iterator[Part]:
    # libvirt: qemuBuildSeccompSandboxCommandLine
    asked = context.host.settings.seccomp_sandbox
    if asked and context.capabilities.has_option("sandbox", "elevateprivileges"):
        names = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
        yield KeyvalPart("-sandbox", "on", dict.fromkeys(names, "deny"))
    elif asked > 0:
        yield option("-sandbox", "on")


def _machine(context: Context) -> Iterator[Part]:
    domain = context.domain
    machine = context.capabilities.resolve_machine(domain.os.machine or "")
    props: dict[str, qemu.Json] = {"usb": False, "dump-guest-core": context.host.settings.dump_guest_core}
    for section in (domain.features or Features(), *domain.sections):
        props |= section.machine_props(context)
    if machine.default_ram_id:
        props["memory-backend"] = machine.default_ram_id
    yield KeyvalPart("-machine", machine.name, props)
    yield _accelerator(context)
    cpu_props = {name: value for s in domain.sections for name, value in s.cpu_props(context).items()}
    for device in domain.devices.all:
        cpu_props |= device.cpu_props(context)
    yield (domain.cpu or Cpu()).part(cpu_props)


def _accelerator(context: Context) -> Part:
    if context.domain.type == "kvm":
        return option("-accel", "kvm")
    # Seen with QEMU 7.2: now and then one vCPU changes the memory map under another, and an assertion ends QEMU.
    races = context.domain.vcpu.maximum > 1 and context.capabilities.version < (8, 2, 0)
    return KeyvalPart("-accel", "tcg", {"thread": "single"} if races else {})


def _memory(context: Context) -> Iterator[Part]:
    # QEMU gives no guest less than a MiB's multiple: libvirt rounds up too (qemuDomainAlignMemorySizes)
    domain = context.domain
    mib = -(-domain.memory * KIB // MIB)
    machine = context.capabilities.resolve_machine(domain.os.machine or "")
    yield KeyvalPart("-m", "", {"size": f"{mib * KIB}k"})
    if machine.default_ram_id:
        backend = (domain.memory_backing or MemoryBacking()).backend(context, machine.default_ram_id)
        yield ObjectPart(backend | {"id": machine.default_ram_id, "size": mib * MIB})


def _vcpus(context: Context) -> Iterator[Part]:
    # libvirt: qemuBuildSmpCommandLine
    domain, vcpu = context.domain, context.domain.vcpu
    topology = domain.cpu.topology if domain.cpu and domain.cpu.topology else None
    props: dict[str, qemu.Json] = {} if vcpu.current is None else {"maxcpus": vcpu.maximum}
    props["sockets"] = topology.sockets if topology else vcpu.maximum
    if topology:
        props["dies"] = topology.dies
    props |= {"cores": topology.cores if topology else 1, "threads": topology.threads if topology else 1}
    yield KeyvalPart("-smp", str(vcpu.current or vcpu.maximum), props)
