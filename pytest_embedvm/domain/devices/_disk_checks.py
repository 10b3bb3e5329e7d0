"""What is refused of a disk, in libvirt's words (virDomainDiskDefValidate, qemuValidateDomainDeviceDefDisk)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.disk_names import bus_of, is_partition
from pytest_embedvm.domain.addresses.shapes import DriveAddress, PciAddress, UsbAddress
from pytest_embedvm.domain.backends.source import NeededFile, check_backing
from pytest_embedvm.errors import ConfigUnsupported, InternalError, MissingSource, XMLError

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices.disk import Disk

#: libvirt: QEMU_SERIAL_PARAM_ACCEPTED_CHARS
_SERIAL: Final = re.compile(r"[A-Za-z0-9_\-. ]*")
_WWN: Final = re.compile(r"(?:0x)?[0-9a-fA-F]{16}")
_LONGEST: Final = {"vendor": 8, "product": 16}


def clone_obstacle(disk: Disk, image: NeededFile | None, *, encrypted: bool) -> str | None:
    """Why a guest that writes to IMAGE through DISK cannot be cloned; None where it can."""
    if image is None:
        return None
    if disk.shareable:
        return f"disk '{disk.dev}' is shared with others that write to it"
    if encrypted:
        return f"disk '{disk.dev}' is encrypted, and an overlay over it would not be"
    if image.kind == "file" and image.format in ("raw", "qcow2"):
        return None
    return f"disk '{disk.dev}' is of type '{disk.type}' and format '{image.format}': there can be no overlay over it"


def check_disk(disk: Disk, disks: Sequence[Disk]) -> None:
    """Refuse what cannot be given of DISK, which is one of DISKS.

    :raise ConfigUnsupported: naming the element and its value.
    :raise XMLError: where libvirt calls it an error of the XML.
    :raise InternalError: where libvirt does.
    :raise MissingSource: when a hard disk has no image.
    """
    _check_source(disk)
    _check_target(disk)
    _check_bus(disk)
    _check_address(disk, disks)
    _check_medium(disk)
    _check_driver(disk)
    _check_virtio(disk)
    _check_identity(disk)
    _check_geometry(disk)


def _check_source(disk: Disk) -> None:
    if disk.source is None and not disk.removable_medium:
        raise MissingSource(disk.dev)
    if disk.driver.name != "qemu":
        raise _by_qemu(f"unsupported driver name '{disk.driver.name}' for disk '{disk.dev}'")
    policy = disk.source.startup_policy if disk.source else None
    if policy == "requisite" and not disk.removable_medium:
        raise XMLError(f"disk startupPolicy '{policy}' is allowed only for cdrom or floppy", origin=ErrorDomain.DOMAIN)
    if disk.source:
        disk.source.check(disk.type)
    _check_encryption(disk)
    check_backing(disk.driver.type or "raw", disk.backing)
    if disk.device == "lun":
        if disk.type != "block":
            raise ConfigUnsupported("disk device='lun' is only valid for block type disk source")
        raise ConfigUnsupported(f"device='lun' of disk '{disk.dev}' is not supported by this driver")


def _check_encryption(disk: Disk) -> None:
    within = disk.source.encryption if disk.source else None
    if within and disk.encryption:
        # libvirt: virDomainDiskDefParseXML
        raise ConfigUnsupported("an <encryption> definition already found for disk source")
    encryption = within or disk.encryption
    if encryption:
        encryption.check(disk.driver.type or "raw")


def _check_target(disk: Disk) -> None:
    prefix = bus_of(disk.dev)
    if disk.device == "floppy" and disk.target.bus != "fdc":
        raise InternalError(f"Invalid bus type '{disk.target.bus}' for floppy disk", origin=ErrorDomain.DOMAIN)
    if disk.device == "disk" and disk.target.bus == "fdc":
        raise InternalError("Invalid bus type 'fdc' for disk", origin=ErrorDomain.DOMAIN)
    if disk.device == "floppy" and prefix != "fdc":
        raise InternalError(f"Invalid floppy device name: {disk.dev}", origin=ErrorDomain.DOMAIN)
    if disk.device != "floppy" and prefix in (None, "fdc"):
        kind = "cdrom" if disk.device == "cdrom" else "harddisk"
        raise InternalError(f"Invalid {kind} device name: {disk.dev}", origin=ErrorDomain.DOMAIN)
    if is_partition(disk.dev):
        raise _by_qemu(f"invalid disk target '{disk.dev}', partitions can't appear in disk targets")


def _check_bus(disk: Disk) -> None:
    bus, target = disk.target.bus, disk.target
    if bus in ("xen", "uml", "sd", None):
        raise ConfigUnsupported(f"bus '{bus}' of disk '{disk.dev}' is not supported by this driver")
    if disk.device == "cdrom" and bus == "virtio":
        raise _by_qemu(f"disk type of '{disk.dev}' does not support ejectable media")
    if target.removable is not None and bus != "usb":
        raise XMLError("removable is only valid for usb disks", origin=ErrorDomain.DOMAIN)
    if target.rotation_rate is not None and bus not in ("scsi", "ide", "sata"):
        raise InternalError("rotation rate is only valid for SCSI/IDE/SATA bus")
    if target.rotation_rate is not None and disk.device != "disk":
        raise InternalError("rotation rate is only valid for disk device")
    if disk.model is not None and bus != "virtio":
        raise ConfigUnsupported(f"disk model '{disk.model}' not supported for bus '{bus}'")


def _check_address(disk: Disk, disks: Sequence[Disk]) -> None:
    address, bus = disk.address, disk.target.bus
    if isinstance(address, DriveAddress):
        if bus == "virtio":
            raise _by_qemu("virtio disk cannot have an address of type 'drive'")
        _check_place(disk, address, disks)
    elif isinstance(address, PciAddress) and bus not in ("virtio", "usb"):
        raise ConfigUnsupported(f"Invalid address type 'pci' for the disk '{disk.dev}' with the bus type '{bus}'")
    if bus == "usb" and not isinstance(address, UsbAddress | None):
        raise InternalError("unexpected address type for usb disk")
    for other in disks:
        if other is disk:
            return
        if other.dev == disk.dev:
            raise XMLError(
                f"target '{disk.dev}' duplicated for disk sources '{other.path}' and '{disk.path}'",
                origin=ErrorDomain.DOMAIN,
            )


def _check_place(disk: Disk, address: DriveAddress, disks: Sequence[Disk]) -> None:
    for other in disks:
        if other is not disk and other.target.bus == disk.target.bus and other.address == address:
            raise ConfigUnsupported(
                f"Found duplicate drive address for disk with target name '{disk.dev}' "
                f"controller='{address.controller}' bus='{address.bus}' "
                f"target='{address.target}' unit='{address.unit}'"
            )
    if disk.target.bus == "ide" and address.controller:
        raise InternalError("Only 1 IDE controller is supported")
    if disk.target.bus == "fdc" and address.controller:
        raise InternalError("Only 1 fdc controller is supported")
    if disk.target.bus == "scsi" and disk.narrow and address.target:
        raise _by_qemu("target must be 0 for controller model 'lsilogic'")
    if disk.target.bus == "scsi" and disk.narrow and address.unit > 7:
        raise _by_qemu("unit must be 0-7 for controller model 'lsilogic'")


def _check_medium(disk: Disk) -> None:
    if disk.target.tray is not None and not disk.removable_medium:
        raise ConfigUnsupported("tray is only valid for cdrom and floppy")
    if disk.target.tray == "open" and disk.source:
        raise ConfigUnsupported(
            f"tray='open' of disk '{disk.dev}' is not supported by this driver while it has a medium"
        )
    if disk.readonly and disk.device == "disk" and disk.target.bus in ("ide", "sata"):
        raise _by_qemu(f"readonly {disk.target.bus} disks are not supported")
    if disk.shareable and disk.source and disk.driver.type != "raw":
        raise _by_qemu(f"shared access for disk '{disk.dev}' requires use of supported storage format")


def _check_driver(disk: Disk) -> None:
    driver = disk.driver
    if driver.io == "native" and driver.cache not in ("none", "directsync"):
        raise _by_qemu("io='native' needs either no disk cache or directsync cache mode")
    if driver.copy_on_read and disk.readonly:
        raise _by_qemu(f"copy_on_read is not compatible with read-only disk '{disk.dev}'")
    if driver.rerror_policy == "enospace":
        raise ConfigUnsupported("Invalid disk read error policy: 'enospace'")


def _check_virtio(disk: Disk) -> None:
    if disk.target.bus == "virtio":
        return
    driver = disk.driver
    for name in ("ioeventfd", "event_idx"):
        if getattr(driver, name) is not None:
            raise ConfigUnsupported(f"disk {name} mode supported only for virtio bus")
    for name in ("queues", "queue_size"):
        if getattr(driver, name) is not None:
            raise ConfigUnsupported(f"{name} attribute in disk driver element is only supported by virtio-blk")
    driver.check_absent()


def _check_identity(disk: Disk) -> None:
    if disk.serial and not _SERIAL.fullmatch(disk.serial):
        raise InternalError(f"driver serial '{disk.serial}' contains unsafe characters")
    if disk.wwn is not None and not _WWN.fullmatch(disk.wwn):
        raise InternalError(f"Malformed wwn: {disk.wwn}", origin=ErrorDomain.NONE)
    for name, longest in _LONGEST.items():
        text = getattr(disk, name)
        if text is not None and not (text.isascii() and text.isprintable()):
            raise XMLError(f"disk {name} is not printable string", origin=ErrorDomain.DOMAIN)
        if text is not None and len(text) > longest:
            raise ConfigUnsupported(f"disk {name} is more than {longest} characters")
    if disk.wwn is not None and disk.target.bus not in ("ide", "scsi"):
        raise _by_qemu("Only ide and scsi disk support wwn")
    if (disk.vendor or disk.product) and disk.target.bus != "scsi":
        raise _by_qemu("Only scsi disk supports vendor and product")


def _check_geometry(disk: Disk) -> None:
    if disk.geometry and disk.geometry.trans is not None and disk.target.bus != "ide":
        raise _by_qemu(f"CHS translation mode can only be set for 'ide' bus not '{disk.target.bus}'")


def _by_qemu(sentence: str) -> ConfigUnsupported:
    """What libvirt's QEMU driver refuses, as opposed to its parser."""
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
