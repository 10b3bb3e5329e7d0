"""What of a disk may change while it is there: the medium of a drive."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._resemblance import resembles
from pytest_embedvm.errors import ConfigUnsupported, OperationUnsupported

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices.disk import Disk

#: What may differ: the medium, and what is no part of the device itself.
_FREE: Final = frozenset({"source", "backing", "type", "alias", "driver", "target"})


def updated(disk: Disk, described: Disk) -> Disk:
    """DISK with the medium that DESCRIBED has, or with none.

    :raise ConfigUnsupported: when it is no drive.
    :raise OperationUnsupported: when something else differs.
    """
    # libvirt: qemuDomainDiskChangeSupported
    for field in dataclasses.fields(described):
        ours, theirs = getattr(disk, field.name), getattr(described, field.name)
        if field.compare and field.name not in _FREE and _differs(field, ours, theirs):
            raise OperationUnsupported(f"cannot modify field '{field.name}' of the disk")
    if described.target.bus not in (None, disk.target.bus):
        raise OperationUnsupported("cannot modify field 'bus' of the disk")
    if described.path != disk.path and not disk.removable_medium:
        # libvirt: qemuDomainChangeDiskLive
        raise ConfigUnsupported("disk source can be changed only in removable drives", origin=ErrorDomain.QEMU)
    driver = dataclasses.replace(disk.driver, type=described.driver.type or disk.driver.type)
    empty = described.path is None
    return dataclasses.replace(
        disk,
        type="file" if empty else described.type,
        source=None if empty else described.source,
        backing=None if empty else described.backing,
        driver=driver,
        target=dataclasses.replace(disk.target, tray=None),
    )


def _differs(field: dataclasses.Field[Any], ours: Any, theirs: Any) -> bool:
    if theirs is None or theirs == field.default:
        return False
    return not resembles(theirs, ours) if dataclasses.is_dataclass(theirs) and ours is not None else theirs != ours
