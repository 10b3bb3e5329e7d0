"""The XML of a domain for the built-in guest, or for a disk image with a guest agent in it."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Final, Literal

#: Where the guest agent listens: QEMU's own name for it.
AGENT_PORT: Final = "org.qemu.guest_agent.0"
#: Where the built-in guest's own server for commands does.
EXEC_PORT: Final = "org.embedvm.exec.0"

#: What starts the system: SeaBIOS or UEFI, and that with or without the keys that Microsoft vouches for.
Firmware = Literal["bios", "efi", "efi-secure-boot"]

#: Below it are the chipset (pc) and the place of a screen.
FIRST_SLOT: Final = 3
#: Behind it is what is plugged in later.
SPARE_SLOT: Final = 28


def domain_xml(
    name: str,
    *,
    memory_mib: int = 256,
    vcpus: int = 1,
    machine: str = "q35",
    cpu: str | None = None,
    accelerator: Literal["kvm", "tcg"] = "tcg",
    arch: str = "x86_64",
    firmware: Firmware = "bios",
    kernel: Path | None = None,
    initrd: Path | None = None,
    cmdline: str | None = None,
    disk: Path | None = None,
    disk_format: Literal["raw", "qcow2"] = "qcow2",
    seed: Path | None = None,
    network: Literal["private", "user", "host", "none"] = "private",
) -> str:
    """A `<domain>` with a serial console, channels for the guest agent and for commands, and a source of randomness.

    :param cpu: the name of a CPU model, `host-passthrough` or `maximum`; None leaves it to QEMU.
    :param network: `private` and `host` are the network `default` of the connection's network driver, `user` is
        QEMU's own NAT.
    :param kernel: booted directly, with INITRD and CMDLINE; without one the disk boots.
    :param disk: written to: give a shared image an overlay.
    :param seed: of cloud-init's: a second disk, or the only one, which is not written.
    """
    domain = ET.Element("domain", type="kvm" if accelerator == "kvm" else "qemu")
    _text(domain, "name", name)
    _text(domain, "memory", memory_mib, unit="MiB")
    _text(domain, "vcpu", vcpus)
    system = ET.SubElement(domain, "os")
    _text(system, "type", "hvm", arch=arch, machine=machine)
    if firmware != "bios":
        _firmware(system, secure_boot=firmware == "efi-secure-boot")
    for tag, value in (("kernel", kernel), ("initrd", initrd), ("cmdline", cmdline)):
        if value is not None:
            _text(system, tag, value)
    ET.SubElement(ET.SubElement(domain, "features"), "acpi")
    if cpu is not None:
        _cpu(domain, cpu)
    devices = ET.SubElement(domain, "devices")
    if disk is not None:
        _disk(devices, "vda", disk, disk_format)
    if seed is not None:
        _disk(devices, "vdb", seed, "raw", readonly=True)
    if network != "none":
        _interface(devices, network)
    _fixed_devices(devices)
    if _has_pci_root(machine):
        _seat(devices)
    if "q35" in machine:
        _spare_slots(devices)
    ET.indent(domain)
    return ET.tostring(domain, encoding="unicode")


def _firmware(system: ET.Element, *, secure_boot: bool) -> None:
    system.set("firmware", "efi")
    if secure_boot:
        firmware = ET.SubElement(system, "firmware")
        for name in ("secure-boot", "enrolled-keys"):
            ET.SubElement(firmware, "feature", enabled="yes", name=name)


def _text(parent: ET.Element, tag: str, value: object, **attributes: str) -> None:
    ET.SubElement(parent, tag, attributes).text = str(value)


def _cpu(domain: ET.Element, cpu: str) -> None:
    if cpu in ("host-passthrough", "maximum"):
        ET.SubElement(domain, "cpu", mode=cpu)
    else:
        _text(ET.SubElement(domain, "cpu", mode="custom", match="exact"), "model", cpu)


def _disk(devices: ET.Element, target: str, path: Path, image: str, *, readonly: bool = False) -> None:
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type=image)
    ET.SubElement(disk, "source", file=str(path))
    ET.SubElement(disk, "target", dev=target, bus="virtio")
    if readonly:
        ET.SubElement(disk, "readonly")


def _interface(devices: ET.Element, network: str) -> None:
    interface = ET.SubElement(devices, "interface", type="user" if network == "user" else "network")
    if network != "user":
        ET.SubElement(interface, "source", network="default")
    ET.SubElement(interface, "model", type="virtio")


def _has_pci_root(machine: str) -> bool:
    return machine == "pc" or "q35" in machine or "i440fx" in machine


def _seat(devices: ET.Element) -> None:
    """Put everything straight on the root bus: each port behind it costs the guest's kernel a twentieth of a second."""
    ET.SubElement(devices, "controller", type="virtio-serial", index="0")
    seated = [device for device in devices if device.tag in ("disk", "interface", "rng", "controller")]
    for slot, device in enumerate((d for d in seated if d.get("type") != "usb"), start=FIRST_SLOT):
        ET.SubElement(device, "address", type="pci", bus="0", slot=str(slot))


def _spare_slots(devices: ET.Element) -> None:
    """Room to plug something in later: the root bus of q35 takes nothing new. 31 slots cost as much as 2 ports."""
    for index, model, bus, slot in (1, "pcie-root-port", 0, SPARE_SLOT), (2, "pcie-to-pci-bridge", 1, 0):
        controller = ET.SubElement(devices, "controller", type="pci", index=str(index), model=model)
        ET.SubElement(controller, "address", type="pci", bus=str(bus), slot=str(slot))


def _fixed_devices(devices: ET.Element) -> None:
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(ET.SubElement(devices, "serial", type="pty"), "target", port="0")
    for port in (AGENT_PORT, EXEC_PORT):
        ET.SubElement(ET.SubElement(devices, "channel", type="unix"), "target", type="virtio", name=port)
    ET.SubElement(devices, "memballoon", model="none")
    _text(ET.SubElement(devices, "rng", model="virtio"), "backend", "/dev/urandom", model="random")
