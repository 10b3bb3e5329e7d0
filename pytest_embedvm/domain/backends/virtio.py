"""What virtio devices have in common: the driver's name on PCI."""

from __future__ import annotations

from typing import Final

_SUFFIXES: Final = {"virtio-transitional": "-pci-transitional", "virtio-non-transitional": "-pci-non-transitional"}


def pci_driver(device: str, model: str) -> str:
    """QEMU's name of a virtio device in libvirt's MODEL: `virtio-rng` is `virtio-rng-pci`."""
    # libvirt: qemuBuildVirtioDevGetConfig
    return device + _SUFFIXES.get(model, "-pci")
