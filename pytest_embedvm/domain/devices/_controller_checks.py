"""What a controller cannot be, in libvirt's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.devices._controller_models import DEFAULT_PCI_NAMES, MODELS, ROOTS, XHCI, XHCI_MAX_PORTS
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError

if TYPE_CHECKING:
    from pytest_embedvm.domain.devices.controller import Controller

HIGHEST_PCI_INDEX: Final = 255


def check_controller(controller: Controller, context: Context) -> None:
    """Return if this machine can have CONTROLLER.

    :raise ConfigUnsupported: when a model, or an option of it, cannot be given.
    :raise XMLError: when a PCI root is where none can be.
    :raise InternalError: where libvirt has no better word for it.
    """
    _check_index(controller)
    _check_model(controller)
    if controller.type == "pci":
        _check_pci(controller, context)
    elif controller.type == "ide":
        _check_ide(controller, context)
    elif controller.type == "fdc" and controller.index:
        raise InternalError("Only 1 fdc controller is supported", origin=ErrorDomain.QEMU)
    elif controller.type == "usb":
        _check_usb(controller)


def _check_index(controller: Controller) -> None:
    # libvirt: virDomainControllerDefValidate
    if controller.type == "pci" and controller.index > HIGHEST_PCI_INDEX:
        raise XMLError(
            f"PCI controller index {controller.index} too high, maximum is {HIGHEST_PCI_INDEX}",
            origin=ErrorDomain.DOMAIN,
        )


def _check_model(controller: Controller) -> None:
    models = MODELS.get(controller.type)
    if models is None:
        raise ConfigUnsupported(f"controller type '{controller.type}' is not supported by this driver")
    if controller.model is not None and controller.model not in models:
        raise ConfigUnsupported(f"Unknown model type '{controller.model}'")  # libvirt: virDomainControllerDefParseXML
    if controller.model is not None and not models[controller.model] and controller.model not in ("none", *ROOTS):
        raise ConfigUnsupported(f"Unsupported controller model: {controller.model}", origin=ErrorDomain.QEMU)


def _check_pci(controller: Controller, context: Context) -> None:
    # libvirt: virDomainDefPostParse's PCI controllers, qemuValidateDomainDeviceDefControllerPCI
    root, model, index = context.chipset.root, controller.model, controller.index
    if model is None:
        raise InternalError("PCI controller model was not set correctly", origin=ErrorDomain.DOMAIN)
    if root and index == 0 and model != root:
        raise XMLError(
            f"The PCI controller with index='0' must be model='{root}' for this machine type, "
            f"but model='{model}' was found instead",
            origin=ErrorDomain.QEMU,
        )
    names = {None, DEFAULT_PCI_NAMES.get(model), "ioh3420" if model == "pcie-root-port" else None}
    if controller.model_name not in names:
        raise ConfigUnsupported(
            f"Option 'modelName' has invalid value for PCI controller with index '{index}', model '{model}' "
            f"and modelName '{controller.model_name}'",
            origin=ErrorDomain.QEMU,
        )
    if controller.pcihole64 is not None and model not in ROOTS:
        raise ConfigUnsupported(
            f"Option 'pcihole64' is not valid for PCI controller with index '{index}', model '{model}' "
            f"and modelName '{controller.model_name or '(null)'}'",
            origin=ErrorDomain.QEMU,
        )
    if index and model in ROOTS:
        raise XMLError("pci-root and pcie-root controllers should have index 0", origin=ErrorDomain.QEMU)


def _check_ide(controller: Controller, context: Context) -> None:
    # libvirt: qemuValidateDomainDeviceDefControllerIDE
    if "ide" not in context.chipset.builtin:
        raise ConfigUnsupported(
            "IDE controllers are unsupported for this QEMU binary or machine type", origin=ErrorDomain.QEMU
        )
    if controller.index:
        raise ConfigUnsupported(
            "Only a single IDE controller is supported for this machine type", origin=ErrorDomain.QEMU
        )


def _check_usb(controller: Controller) -> None:
    # libvirt: qemuValidateDomainDeviceDefControllerUSB, qemuBuildUSBControllerDevStr
    ports, model = controller.ports, controller.model
    if ports is None:
        return
    if model not in XHCI:
        raise ConfigUnsupported(
            f"usb controller type '{model}' doesn't support 'ports' with this QEMU binary", origin=ErrorDomain.QEMU
        )
    if ports > XHCI_MAX_PORTS:
        raise ConfigUnsupported(
            f"'{model}' controller only supports up to '{XHCI_MAX_PORTS}' ports", origin=ErrorDomain.QEMU
        )
