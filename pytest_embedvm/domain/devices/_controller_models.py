"""Models of controllers: libvirt's names, QEMU's devices."""

from __future__ import annotations

from typing import Final, Literal

#: The SCSI controller that a running domain gets unasked. libvirt takes the same as for one that is defined, lsilogic:
#: that fits into no PCI Express port, and few guests of today have its driver.
PLUGGED_SCSI: Final = "virtio-scsi"

#: libvirt: virDomainControllerPCIModelName
PciName = Literal[
    "none", "pci-bridge", "i82801b11-bridge", "ioh3420", "x3130-upstream", "xio3130-downstream", "pxb", "pxb-pcie",
    "pcie-root-port", "spapr-pci-host-bridge", "pcie-pci-bridge",
]  # fmt: skip

#: Controllers that are the board: nothing is added for them.
ROOTS: Final = ("pci-root", "pcie-root")

#: libvirt: QEMU_USB_NEC_XHCI_MAXPORTS, which is QEMU's for both models
XHCI_MAX_PORTS: Final = 15
XHCI: Final = ("nec-xhci", "qemu-xhci")

#: What `<model name='…'/>` says of a PCI controller unless the user does.
DEFAULT_PCI_NAMES: Final[dict[str, PciName]] = {
    "pci-bridge": "pci-bridge",
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "pcie-to-pci-bridge": "pcie-pci-bridge",
    "pcie-root-port": "pcie-root-port",
    "pcie-switch-upstream-port": "x3130-upstream",
    "pcie-switch-downstream-port": "xio3130-downstream",
    "pci-expander-bus": "pxb",
    "pcie-expander-bus": "pxb-pcie",
}

#: QEMU's other names of lsi53c895a and ich9-ahci, which its list of types does not have (qdev_alias_table).
DEVICE_ALIASES: Final = ("lsi", "ahci")

#: Type to libvirt's models to QEMU's device; an empty one is known to libvirt and not given here. None stands for no
#: model (libvirt: virDomainControllerModel…TypeToString, qemuBuildUSBControllerDevStr, qemuBuildSCSIControllerDevStr).
MODELS: Final[dict[str, dict[str | None, str]]] = {
    "pci": {
        "pci-root": "",
        "pcie-root": "",
        **{str(model): str(name) for model, name in DEFAULT_PCI_NAMES.items()},
    },
    "usb": {
        "piix3-uhci": "piix3-usb-uhci",
        "piix4-uhci": "piix4-usb-uhci",
        "ehci": "usb-ehci",
        "ich9-ehci1": "ich9-usb-ehci1",
        "ich9-uhci1": "ich9-usb-uhci1",
        "ich9-uhci2": "ich9-usb-uhci2",
        "ich9-uhci3": "ich9-usb-uhci3",
        "vt82c686b-uhci": "vt82c686b-usb-uhci",
        "pci-ohci": "pci-ohci",
        "nec-xhci": "nec-usb-xhci",
        "qemu-xhci": "qemu-xhci",
        "qusb1": "",
        "qusb2": "",
        "none": "",
    },
    "scsi": {
        "lsilogic": "lsi",
        "virtio-scsi": "virtio-scsi-pci",
        "virtio-transitional": "virtio-scsi-pci-transitional",
        "virtio-non-transitional": "virtio-scsi-pci-non-transitional",
        "lsisas1078": "megasas",
        "lsisas1068": "mptsas1068",
        "vmpvscsi": "pvscsi",
        "dc390": "dc390",
        "am53c974": "am53c974",
        "auto": "",
        "buslogic": "",
        "ibmvscsi": "",
        "ncr53c90": "",
    },
    "virtio-serial": {
        None: "virtio-serial-pci",
        "virtio": "virtio-serial-pci",
        "virtio-transitional": "virtio-serial-pci-transitional",
        "virtio-non-transitional": "virtio-serial-pci-non-transitional",
    },
    "sata": {None: "ahci"},
    "ide": {None: "piix3-ide", "piix3": "piix3-ide", "piix4": "piix4-ide", "ich6": "ahci"},
    "fdc": {None: "isa-fdc"},
}

#: The models of which a USB 2 controller is made, and the function each has in the slot they share.
COMPANIONS: Final = {"ich9-ehci1": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}

#: The models that help an ich9-ehci1, and the first of its ports they serve.
START_PORTS: Final = {"ich9-uhci1": 0, "ich9-uhci2": 2, "ich9-uhci3": 4}

#: Ports that libvirt gives to devices (libvirt: virDomainUSBAddressControllerModelToPorts).
USB_PORTS: Final = {
    "piix3-uhci": 2,
    "piix4-uhci": 2,
    "vt82c686b-uhci": 2,
    "ehci": 6,
    "ich9-ehci1": 6,
    "pci-ohci": 3,
    "nec-xhci": 4,
    "qemu-xhci": 4,
}


def driver(kind: str, model: str | None) -> str:
    """QEMU's device for a controller of this type and model; empty where there is none."""
    return MODELS.get(kind, {}).get(model, "")
