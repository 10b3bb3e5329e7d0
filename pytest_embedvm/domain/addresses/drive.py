"""Where a disk is on its controller, from the name of its target alone."""

from __future__ import annotations

from typing import Final, Literal

from pytest_embedvm.domain.addresses.shapes import DriveAddress

DriveBus = Literal["scsi", "ide", "sata", "fdc"]

#: Buses of a controller, and drives on each. SCSI is narrow: 7 drives, the eighth is the controller itself.
_SHAPES: Final[dict[DriveBus, tuple[int, int]]] = {"scsi": (1, 7), "ide": (2, 2), "sata": (1, 6), "fdc": (1, 2)}


def address(bus: DriveBus, index: int) -> DriveAddress:
    """The address of drive number INDEX (0 for sda, hda, fda) of the whole domain."""
    # libvirt: virDomainDiskDefAssignAddress
    buses, units = _SHAPES[bus]
    controller, rest = divmod(index, buses * units)
    return DriveAddress(controller=controller, bus=rest // units, unit=rest % units)
