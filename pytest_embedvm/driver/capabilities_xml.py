"""`<capabilities>` and `<domainCapabilities>`: a probe's answers in libvirt's words.

libvirt: virCapabilitiesFormatXML, virDomainCapsFormat. What management tools read is there; what
would need a look at the host beyond QEMU itself (NUMA cells, CPU flags, security labels) is not.
"""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, get_args

from lxml import etree

from pytest_embedvm.domain.model import VirtType
from pytest_embedvm.errors import ConfigUnsupported, InvalidArgument
from pytest_embedvm.qemu.cache import HostCapabilities
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.xml import document
from pytest_embedvm.xml.document import Element

#: QEMU's architectures that libvirt knows, and their word sizes. libvirt: virarch.c
WORD_SIZES: Final = {
    "x86_64": 64, "i686": 32, "aarch64": 64, "armv7l": 32, "ppc64": 64, "ppc64le": 64,
    "s390x": 64, "riscv64": 64, "riscv32": 32, "loongarch64": 64, "sparc": 32, "sparc64": 64,
}  # fmt: skip

#: What a device is in QEMU, by what libvirt calls it.
_VIDEO: Final = {
    "vga": "VGA", "cirrus": "cirrus-vga", "qxl": "qxl-vga", "virtio": "virtio-vga",
    "bochs": "bochs-display", "ramfb": "ramfb",
}  # fmt: skip
_TPM: Final = {"tpm-tis": "tpm-tis", "tpm-crb": "tpm-crb"}
_RNG: Final = {"random": "rng-random", "egd": "rng-egd", "builtin": "rng-builtin"}


def require_arch(arch: str) -> None:
    """:raise InvalidArgument: when libvirt knows no such architecture."""
    if arch not in WORD_SIZES:
        # libvirt: qemuConnectGetDomainCapabilities
        raise InvalidArgument(f"unknown architecture: {arch}")


def host(known: HostCapabilities) -> str:
    """`<capabilities>` of this host and one emulator."""
    root = etree.Element("capabilities")
    machine = etree.SubElement(root, "host")
    _text(machine, "uuid", str(_host_uuid()))
    cpu = etree.SubElement(machine, "cpu")
    _text(cpu, "arch", platform.machine())
    etree.SubElement(cpu, "topology", sockets="1", dies="1", cores=str(os.cpu_count() or 1), threads="1")
    etree.SubElement(machine, "power_management")
    etree.SubElement(machine, "iommu", support="no")
    root.append(_guest(known))
    return document.format(root)


@cache
def _host_uuid() -> uuid.UUID:
    """The same for all processes of one boot; libvirt reads the mainboard's, which only root may."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    except OSError:
        return uuid.uuid4()


def _guest(known: HostCapabilities) -> Element:
    capabilities = known.capabilities
    guest = etree.Element("guest")
    _text(guest, "os_type", "hvm")
    arch = etree.SubElement(guest, "arch", name=capabilities.arch)
    _text(arch, "wordsize", str(WORD_SIZES.get(capabilities.arch, 64)))
    _text(arch, "emulator", str(capabilities.binary))
    for machine in capabilities.machines.values():
        attributes = {"maxCpus": str(machine.cpu_max)} | ({"deprecated": "yes"} if machine.deprecated else {})
        _text(arch, "machine", machine.name, **attributes)
        if machine.alias:
            _text(arch, "machine", machine.alias, canonical=machine.name, **attributes)
    for virttype in _virttypes(known):
        etree.SubElement(arch, "domain", type=virttype)
    features = etree.SubElement(guest, "features")
    etree.SubElement(features, "acpi", default="on", toggle="yes")
    etree.SubElement(features, "apic", default="on", toggle="no")
    etree.SubElement(features, "cpuselection")
    etree.SubElement(features, "deviceboot")
    return guest


def _virttypes(known: HostCapabilities) -> tuple[str, ...]:
    return ("qemu", "kvm") if known.accelerator.name == "kvm" else ("qemu",)


def domain(known: HostCapabilities, arch: str, machine: str | None, virttype: str | None) -> str:
    """`<domainCapabilities>` of one emulator, machine type and virtualization type.

    :raise InvalidArgument: when the emulator has no such machine, or is for another architecture, or when there is
        no such virtualization type.
    :raise ConfigUnsupported: when it cannot run that virtualization type here; with the reason.
    """
    capabilities = known.capabilities
    if arch != capabilities.arch:
        raise InvalidArgument(
            f"architecture from emulator '{capabilities.arch}' doesn't match given architecture '{arch}'"
        )
    virttype = virttype or _virttypes(known)[-1]
    _require_virttype(known, virttype)
    kind = _machine(capabilities, machine)
    root = etree.Element("domainCapabilities")
    _text(root, "path", str(capabilities.binary))
    _text(root, "domain", virttype)
    _text(root, "machine", kind)
    _text(root, "arch", arch)
    etree.SubElement(root, "vcpu", max=str(capabilities.machines[kind].cpu_max))
    etree.SubElement(root, "iothreads", supported="yes")
    _os(root)
    _cpu(root, known, virttype)
    _devices(etree.SubElement(root, "devices"), capabilities)
    features = etree.SubElement(root, "features")
    for name in ("gic", "sev", "sgx"):
        etree.SubElement(features, name, supported="no")
    return document.format(root)


def _require_virttype(known: HostCapabilities, virttype: str) -> None:
    if virttype not in get_args(VirtType):
        raise InvalidArgument(f"unknown virttype: {virttype}")  # libvirt: virQEMUCapsCacheLookupDefault
    if virttype not in _virttypes(known):
        reason = f": {known.accelerator.reason}" if virttype == "kvm" else ""
        raise ConfigUnsupported(
            f"Emulator '{known.capabilities.binary}' does not support virt type '{virttype}'{reason}"
        )


def _machine(capabilities: Capabilities, name: str | None) -> str:
    if name is None:
        default = capabilities.default_machine or next(iter(capabilities.machines.values()))
        return default.name
    try:
        return capabilities.resolve_machine(name).name
    except ConfigUnsupported:
        raise InvalidArgument(f"the machine '{name}' is not supported by emulator '{capabilities.binary}'") from None


def _os(root: Element) -> None:
    boot = etree.SubElement(root, "os", supported="yes")
    _enum(boot, "firmware", ("efi",))
    loader = etree.SubElement(boot, "loader", supported="yes")
    _enum(loader, "type", ("rom", "pflash"))
    _enum(loader, "readonly", ("yes", "no"))
    _enum(loader, "secure", ("yes", "no"))


def _cpu(root: Element, known: HostCapabilities, virttype: str) -> None:
    cpu = etree.SubElement(root, "cpu")
    passthrough = virttype == "kvm" and known.accelerator.cpu_host_usable
    etree.SubElement(cpu, "mode", name="host-passthrough", supported="yes" if passthrough else "no")
    etree.SubElement(cpu, "mode", name="maximum", supported="yes")
    etree.SubElement(cpu, "mode", name="host-model", supported="no")
    custom = etree.SubElement(cpu, "mode", name="custom", supported="yes")
    for model in known.capabilities.cpus.values():
        _text(custom, "model", model.name, usable="no" if model.unavailable_features else "yes", vendor="unknown")


def _devices(devices: Element, capabilities: Capabilities) -> None:
    disk = _supported(devices, "disk")
    _enum(disk, "diskDevice", ("disk", "cdrom", "floppy"))
    _enum(disk, "bus", ("ide", "fdc", "scsi", "virtio", "usb", "sata"))
    _enum(_supported(devices, "graphics"), "type", ("vnc",))
    _enum(_supported(devices, "video"), "modelType", (*_having(capabilities, _VIDEO), "none"))
    _enum(_supported(devices, "rng"), "backendModel", _having(capabilities, _RNG))
    _enum(_supported(devices, "tpm"), "model", _having(capabilities, _TPM))
    _enum(_supported(devices, "channel"), "type", ("pty", "unix"))


def _having(capabilities: Capabilities, names: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name, device in names.items() if capabilities.has_device(device))


def _supported(parent: Element, name: str) -> Element:
    return etree.SubElement(parent, name, supported="yes")


def _enum(parent: Element, name: str, values: Iterable[str]) -> None:
    enum = etree.SubElement(parent, "enum", name=name)
    for value in values:
        _text(enum, "value", value)


def _text(parent: Element, name: str, text: str, **attributes: str) -> None:
    etree.SubElement(parent, name, attributes).text = text
