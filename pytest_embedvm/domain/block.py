"""The images of a running domain's disks: which disk is meant, what it stands on, and what a pull leaves of that."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_embedvm.domain.backends.source import BackingStore, Image, Source, chain, links
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.domain.model import Domain


def disk_named(domain: Domain, name: str) -> Disk | None:
    """The disk of DOMAIN whose target, or whose image's path, is NAME."""
    # libvirt: virDomainDiskIndexByName
    return next((disk for disk in _disks(domain) if name and name in (disk.dev, disk.path)), None)


def top_node(disk: Disk) -> str:
    """QEMU's node that DISK's guest reads from."""
    # libvirt: qemuDomainDiskGetTopNodename
    return f"libvirt-CoR-{disk.dev}" if disk.driver.copy_on_read else _images(disk)[0].format_node


def format_node(disk: Disk) -> str:
    """QEMU's node of DISK's own image."""
    return _images(disk)[0].format_node


def pulled(disk: Disk) -> list[str]:
    """Note that DISK stands on nothing any more; the nodes that nobody needs now, the topmost first."""
    # libvirt: qemuBlockJobProcessEventCompletedPull
    nodes = [node for image in _images(disk)[1:] for node in (image.format_node, image.storage_node)]
    disk.backing = BackingStore()
    return nodes


def forget_backing(domain: Domain, live: Disk) -> bool:
    """Drop from the definition DOMAIN what its disk was said to stand on, if it is LIVE's; whether that changed it."""
    disk = disk_named(domain, live.dev)
    if disk is None or disk.path != live.path or next(links(disk.backing), None) is None:
        return False
    disk.backing = None
    return True


def detected(domain: Domain) -> list[int]:
    """The numbers of the images that stand in DOMAIN's XML because another one's header named them."""
    return [link.index for link in _links(domain) if link.detected and link.index is not None]


def mark_detected(domain: Domain, numbers: tuple[int, ...]) -> None:
    """Tell DOMAIN, which was read from its XML, what `detected` said."""
    for link in _links(domain):
        link.detected = link.index in numbers


def found(domain: Domain) -> list[tuple[int, Volume]]:
    """What the volumes are that DOMAIN's images are in, by the images' numbers."""
    sources = _sources(domain)
    return [(number, source.found) for number, source in sources if source.found]


def mark_found(domain: Domain, volumes: tuple[tuple[int, Volume], ...]) -> None:
    """Tell DOMAIN, which was read from its XML, what `found` said."""
    known = dict(volumes)
    for number, source in _sources(domain):
        source.found = known.get(number)


def _sources(domain: Domain) -> Iterator[tuple[int, Source]]:
    for disk in _disks(domain):
        if disk.source and disk.source.index is not None:
            yield disk.source.index, disk.source
        yield from ((link.index, link.source) for link in links(disk.backing) if link.source and link.index is not None)


def _disks(domain: Domain) -> Iterator[Disk]:
    return (device for device in domain.devices.all if isinstance(device, Disk))


def _links(domain: Domain) -> Iterator[BackingStore]:
    return (link for disk in _disks(domain) for link in links(disk.backing))


def _images(disk: Disk) -> tuple[Image, ...]:
    return chain(disk.type, disk.driver.type or "raw", disk.source or Source(), disk.backing).images
