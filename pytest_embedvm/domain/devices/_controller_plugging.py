"""Which controllers a running domain can get and lose."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_embedvm.domain.addresses.shapes import DriveAddress
from pytest_embedvm.errors import NoDevice, OperationFailed, OperationInvalid, OperationUnsupported

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices._base import Device
    from pytest_embedvm.domain.devices.controller import Controller


def check_addition(controller: Controller, others: Iterable[Controller], *, live: bool) -> None:
    """:raise OperationFailed, OperationInvalid: when one of OTHERS has the place of CONTROLLER."""
    # libvirt: qemuDomainAttachControllerDevice, qemuDomainAttachDeviceConfig
    kind, index = controller.type, controller.index
    if index >= 0 and any((other.type, other.index) == (kind, index) for other in others):
        if live:
            raise OperationFailed(f"target {kind}:{index} already exists")
        raise OperationInvalid(f"controller index='{index}' already exists")


def check_plug(controller: Controller) -> None:
    """:raise OperationUnsupported: when CONTROLLER cannot be plugged in."""
    # libvirt: qemuDomainAttachControllerDevice
    if controller.type != "scsi":
        raise OperationUnsupported(f"'{controller.type}' controller cannot be hot plugged.")


def check_unplug(controller: Controller, others: Iterable[Device]) -> None:
    """:raise OperationUnsupported, OperationFailed: when CONTROLLER cannot be taken away, or one of OTHERS is on it."""
    # libvirt: qemuDomainDetachPrepController, qemuDomainControllerIsBusy
    if controller.type != "scsi":
        raise OperationUnsupported(f"'{controller.type}' controller cannot be hot unplugged.")
    place = controller.type, controller.index
    on_it = (o for o in others if isinstance(o.address, DriveAddress) and place in o.needed_controllers())
    if any(True for _ in on_it):
        raise OperationFailed("device cannot be detached: device is busy")


def find(controller: Controller, others: Iterable[Controller], *, live: bool) -> Controller:
    """The one of OTHERS in the place of CONTROLLER.

    :raise NoDevice: when there is none.
    """
    for other in others:
        if (other.type, other.index) == (controller.type, controller.index):
            return other
    # libvirt: qemuDomainDetachPrepController, qemuDomainDetachDeviceConfig
    name = f"controller {controller.type}:{controller.index} not found"
    raise NoDevice(name if live else "device not present in domain configuration")
