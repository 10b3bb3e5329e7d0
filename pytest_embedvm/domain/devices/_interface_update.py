"""What of an interface may change while it is there: whether its cable is plugged in."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final

from pytest_embedvm.domain.devices._resemblance import resembles
from pytest_embedvm.errors import ConfigUnsupported, OperationUnsupported

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices.interface import Interface

#: Libvirt's words for what cannot change (libvirt: qemuDomainChangeNet).
_FIXED: Final = {
    "model": "cannot modify network device model from {0} to {1}",
    "target_dev": "cannot modify network device tap name",
    "mtu": "cannot modify MTU",
    "boot_order": "cannot modify network device boot index setting",
    "acpi_index": "changing device 'acpi index' is not allowed",
}
_FIXED_PARTS: Final = {
    "address": "cannot modify network device guest PCI address",
    "driver": "cannot modify virtio network device driver attributes",
    "rom": "cannot modify network device rom bar setting",
}


def updated(interface: Interface, described: Interface) -> Interface:
    """INTERFACE with its link as DESCRIBED.

    :raise OperationUnsupported: when something else differs.
    """
    for name, words in _FIXED.items():
        ours, theirs = getattr(interface, name), getattr(described, name)
        if theirs not in (None, ours):
            raise OperationUnsupported(words.format(ours, theirs))
    for name, words in _FIXED_PARTS.items():
        ours, theirs = getattr(interface, name), getattr(described, name)
        if theirs is not None and str(theirs) != str(ours) and not (ours and resembles(theirs, ours)):
            raise OperationUnsupported(words)
    if described.type != interface.type:
        raise OperationUnsupported(f"cannot change network interface type to '{described.type}'")
    if described.source and not (interface.source and resembles(described.source, interface.source)):
        raise ConfigUnsupported("moving an interface to another source is not supported by this driver: detach it")
    return dataclasses.replace(interface, link=described.link)
