"""Which disks a running domain can get and lose, and which disk of a domain is meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import NoDevice, OperationInvalid, OperationUnsupported, XMLError

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices.disk import Disk

#: Buses that a running guest can get a disk on.
_BUSES: Final = ("virtio", "scsi", "usb")


def check_plug(disk: Disk) -> None:
    """:raise OperationUnsupported: when DISK cannot be plugged in."""
    # libvirt: qemuDomainAttachDeviceDiskLiveInternal
    if disk.device == "floppy":
        raise OperationUnsupported("floppy device hotplug isn't supported")
    if disk.target.bus not in _BUSES:
        raise OperationUnsupported(f"disk bus '{disk.target.bus}' cannot be hotplugged.")


def check_unplug(disk: Disk) -> None:
    """:raise OperationUnsupported: when DISK cannot be taken away."""
    # libvirt: qemuDomainDetachPrepDisk
    if disk.device == "floppy" or (disk.device == "cdrom" and disk.target.bus not in ("usb", "scsi")):
        raise OperationUnsupported(f"disk device type '{disk.device}' cannot be detached")
    if disk.target.bus not in _BUSES:
        raise OperationUnsupported("This type of disk cannot be hot unplugged")


def check_addition(disk: Disk, others: Iterable[Disk], *, live: bool) -> None:
    """:raise XMLError, OperationInvalid: when one of OTHERS has the name of DISK."""
    # libvirt: virDomainDiskDefCheckDuplicateInfo, qemuDomainAttachDeviceConfig
    other = next((other for other in others if other.dev == disk.dev), None)
    if other and not live:
        raise OperationInvalid(f"target {disk.dev} already exists")
    if other:
        sources = f"'{other.path}' and '{disk.path}'"
        raise XMLError(f"target '{disk.dev}' duplicated for disk sources {sources}", origin=ErrorDomain.DOMAIN)


def find(disk: Disk, others: Iterable[Disk], *, live: bool) -> Disk:
    """The one of OTHERS that has the name of DISK.

    :raise NoDevice: when none has.
    """
    for other in others:
        if other.dev == disk.dev:
            return other
    # libvirt: qemuDomainDetachPrepDisk, qemuDomainDetachDeviceConfig
    raise NoDevice(f"disk {disk.dev} not found" if live else f"no target device {disk.dev}")
