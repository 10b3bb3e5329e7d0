"""The files a domain needs of its host: looked at when it starts, by whoever may touch files."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_embedvm.domain.backends.source import BackingStore, NeededFile, Source
from pytest_embedvm.domain.model import Domain


def needed_files(domain: Domain) -> Iterator[NeededFile]:
    """The files and block devices of the host that DOMAIN's devices stand on, in the devices' order."""
    for device in domain.devices.all:
        yield from device.needed_files()


def missing_volumes(domain: Domain) -> list[Source]:
    """The sources of DOMAIN, which is about to run, that are volumes of storage pools and were not found yet."""
    # libvirt: qemuProcessPrepareHostStorage's virDomainDiskTranslateSourcePool
    return [source for device in domain.devices.all for source in device.missing_volumes()]


def disk_with(domain: Domain, node: str) -> tuple[str, str]:
    """Alias and source of the disk that QEMU's block node NODE belongs to; both empty if it is nobody's."""
    # libvirt: qemuProcessHandleIOError
    for device in domain.devices.all:
        if device.has_node(node):
            return device.id, next(iter(device.needed_files())).path
    return "", ""


def learn_backing(domain: Domain, image: NeededFile, below: BackingStore) -> None:
    """Note in DOMAIN, which is about to run, that IMAGE, the last of its chain, stands on BELOW."""
    for device in domain.devices.all:
        if image in device.needed_files():
            device.learn_backing(below)
    for device in domain.devices.all:
        device.number_nodes(domain.devices.all)


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
