"""What libvirt adds to a domain unasked: default devices, and the controllers that others plug into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, cast

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses import pci, usb, virtio_serial
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.domain.devices.controller import Controller, ControllerType
from pytest_embedvm.domain.devices.hub import Hub
from pytest_embedvm.errors import InternalError

#: What disks sit on, in the order in which controllers are added (libvirt: virDomainDefAddImplicitControllers).
_DISKS: Final = ("scsi", "fdc", "ide", "sata")


def arrange(context: Context) -> None:
    """Put the devices in the order in which libvirt keeps them: by kind, and by what the kind says."""
    devices = context.domain.devices
    kinds: dict[type[Device], list[Device]] = {kind: [] for kind in KINDS.values()}
    for device in devices.all:
        device.arrange(kinds[type(device)])
    devices.all = [device for kind in kinds.values() for device in kind]
    for device in devices.all:
        device.prepare(context)


def add_devices(context: Context) -> None:
    """Add what a domain has though nobody wrote it: USB, a PCI root, a memory balloon."""
    devices, order = context.domain.devices.all, list(KINDS.values())
    for kind in order:
        devices.extend(kind.implied(context))
    devices.sort(key=lambda device: (order.index(type(device)), not device.stands_first))


def add_controllers(context: Context) -> None:
    """Add the controllers that disks (up to the highest index that is needed) and channels sit on."""
    devices = sorted(context.domain.devices.all, key=lambda device: device.finds_own_port)
    needed = [need for device in devices for need in device.needed_controllers()]
    for kind in _DISKS:
        highest = max((index for k, index in needed if k == kind), default=-1)
        _add_missing(context, kind, range(highest + 1))
    _add_missing(context, "virtio-serial", [index for kind, index in needed if kind == "virtio-serial"])


def _add_missing(context: Context, kind: str, indexes: Iterable[int]) -> None:
    for index in indexes:
        if not context.domain.has_controller(kind, index):
            add_controller(context, kind, index)


def add_controller(context: Context, kind: str, index: int, model: str | None = None) -> Controller:
    """Append a controller, completed."""
    controller = Controller(type=cast("ControllerType", kind), index=index, model=model)
    context.domain.devices.all.append(controller)
    controller.complete(context)
    return controller


def plug_addresses(context: Context) -> None:
    """Give those devices their addresses that have none, in a machine that runs: no bridge and no hub can be added.

    :raise InternalError: when there is no place for one.
    :raise XMLError: when an address the user chose is taken, or cannot be.
    """
    virtio_serial.assign(context, lambda index: add_controller(context, "virtio-serial", index))
    pci.assign_free(context)
    usb.assign(context, _no_hub)


def _no_hub() -> None:
    # libvirt: virDomainUSBAddressAssignFromBus
    raise InternalError("No free USB ports", origin=ErrorDomain.DOMAIN)


def assign_addresses(context: Context) -> None:
    """Give every device its address, and add what this takes.

    :raise XMLError: when an address the user chose is taken, or cannot be.
    """
    # libvirt: qemuDomainAssignAddresses
    virtio_serial.assign(context, lambda index: add_controller(context, "virtio-serial", index))
    pci.assign(context, lambda model, index: add_controller(context, "pci", index, model))
    usb.assign(context, lambda: context.domain.devices.all.append(Hub(type="usb")))
