"""Names of disks (`vda`), which say their number and suggest their bus."""

from __future__ import annotations

import re
from typing import Final

#: libvirt: virDiskNameParse
_NAME: Final = re.compile(r"(?:fd|hd|vd|sd|xvd|ubd)([a-z]+)(\d*)")

#: The bus of a disk that names none, by its name (libvirt: virDomainDiskDefPostParse).
_BUSES: Final = {"hd": "ide", "sd": "scsi", "vd": "virtio", "xvd": "xen", "ubd": "uml", "fd": "fdc"}


def disk_index(name: str) -> int | None:
    """The number of a disk: 0 for `vda`, 26 for `vdaa`; None when it is no disk's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    index = 0
    for letter in match[1]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index - 1


def is_partition(name: str) -> bool:
    """Whether NAME is that of a partition: `vda1`."""
    match = _NAME.fullmatch(name)
    return match is not None and bool(match[2])


def bus_of(name: str) -> str | None:
    """The bus that NAME suggests."""
    return next((bus for prefix, bus in _BUSES.items() if name.startswith(prefix)), None)
