"""From what the user wrote to a domain in which nothing is left open. The order is the point."""

from __future__ import annotations

from typing import Final

from pytest_embedvm.domain import aliases, check, implicit
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.domain.sections.clock import Clock
from pytest_embedvm.domain.sections.cpu import Cpu

DEFAULT_ARCHITECTURE: Final = "x86_64"


def complete(domain: Domain, host: Host) -> Completed:
    """A copy of DOMAIN with defaults, implicit devices, aliases and addresses; DOMAIN stays as it is.

    :raise ConfigUnsupported: when it asks for what this driver, this QEMU or this host cannot give.
    :raise XMLError: when libvirt calls it an error of the XML.
    """
    domain = domain.copy()
    context = _prepare(domain, host)
    implicit.arrange(context)
    implicit.add_devices(context)
    for device in domain.devices.all:
        device.complete(context)
    implicit.add_controllers(context)
    check.check(context)
    implicit.assign_addresses(context)
    aliases.assign(domain)
    for device in domain.devices.all:
        device.settle(context)
    return Completed(domain)


def _prepare(domain: Domain, host: Host) -> Context:
    """Defaults of the domain itself, and the context in which its devices are completed."""
    if domain.uuid is None:
        domain.uuid = host.new_uuid()
    domain.os.arch = domain.os.arch or DEFAULT_ARCHITECTURE
    domain.devices.emulator = domain.devices.emulator or host.default_emulator(domain.os.arch)
    _set_defaults(domain)
    context = Context(domain, host.capabilities(domain.devices.emulator), host)
    for section in (domain.os, *domain.sections):
        section.complete(context)
    return context


def _set_defaults(domain: Domain) -> None:
    # libvirt: virDomainDefPostParseMemory, virDomainDefParseXML, qemuDomainDefCPUPostParse
    domain.current_memory = min(domain.current_memory or domain.memory, domain.memory)
    domain.cpu = domain.cpu or Cpu()
    domain.clock = domain.clock or Clock()
    domain.on_poweroff = domain.on_poweroff or "destroy"
    domain.on_reboot = domain.on_reboot or "restart"
    domain.on_crash = domain.on_crash or "destroy"
