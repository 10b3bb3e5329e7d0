"""The files a domain needs of its host: looked at when it starts, by whoever may touch files."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_embedvm.domain.backends.source import NeededFile
from pytest_embedvm.domain.model import Domain


def needed_files(domain: Domain) -> Iterator[NeededFile]:
    """The files and block devices of the host that DOMAIN's devices stand on, in the devices' order."""
    for device in domain.devices.all:
        yield from device.needed_files()


def drop_medium(domain: Domain, missing: NeededFile) -> None:
    """Make do without MISSING, whose policy is `optional`: a drive is left empty, a hard disk out of the domain.

    DOMAIN is changed: it is the copy that is about to run, never the definition.
    """
    # libvirt: qemuDomainCheckDiskStartupPolicy
    kept = []
    for device in domain.devices.all:
        left = device.without_medium() if missing in device.needed_files() else device
        if left is not None:
            kept.append(left)
    domain.devices.all = kept
