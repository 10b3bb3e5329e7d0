"""A domain whose guest is cloned: why it may not be, and what each clone has of its own."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping

from pytest_embedvm.domain.backends.source import NeededFile
from pytest_embedvm.domain.model import Domain


def obstacles(domain: Domain) -> list[str]:
    """Why a guest of DOMAIN cannot be cloned: half a sentence each; nothing where it can."""
    found = [reason for device in domain.devices.all if (reason := device.clone_obstacle())]
    if domain.commandline and (domain.commandline.arguments or domain.commandline.environment_variables):
        found.append("nobody knows what its <qemu:commandline> opens")
    return found


def written_images(domain: Domain) -> Iterator[NeededFile]:
    """The images that the guest of DOMAIN writes to."""
    for device in domain.devices.all:
        image = device.written_image()
        if image is not None:
            yield image


def over(domain: Domain, images: Mapping[str, str]) -> Domain:
    """DOMAIN writing to the qcow2 images IMAGES, by target, instead of to its own."""
    copy = domain.copy()
    for device in copy.devices.all:
        image = device.written_image()
        if image is not None:
            device.write_to(images[image.device])
    return copy


def clone(domain: Domain, name: str, identity: uuid.UUID, new_mac: Callable[[], str]) -> Domain:
    """DOMAIN as a machine of its own: another name, another uuid, other MAC addresses."""
    copy = domain.copy()
    copy.name, copy.uuid, copy.id = name, identity, None
    for device in copy.devices.all:
        device.renew(new_mac)
    return copy
