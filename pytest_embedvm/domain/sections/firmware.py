"""Firmware: `<loader>`, `<nvram>`, `firmware='efi'`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.host import FirmwareWish
from pytest_embedvm.domain.sections.features import Features
from pytest_embedvm.errors import ConfigUnsupported, OperationInvalid, XMLError, XMLSyntaxError
from pytest_embedvm.qemu.parts import BlockdevPart, Json, Part, option
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import YesNo

if TYPE_CHECKING:
    from pytest_embedvm.domain.sections.boot import Os

Format = Literal["raw", "qcow2"]

#: The block nodes behind the two flash chips.
CODE: Final = "libvirt-pflash0"
VARIABLES: Final = "libvirt-pflash1"
#: The variable store's name among the files of its domain, where the driver chooses it.
STORE: Final = "VARS.fd"


@dataclass(kw_only=True)
class Feature:
    """`<firmware><feature enabled='yes' name='secure-boot'/></firmware>`."""

    enabled: Annotated[bool, YesNo()]
    name: Literal["enrolled-keys", "secure-boot"]


@dataclass(kw_only=True)
class Loader:
    """`<loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE.fd</loader>`."""

    readonly: Annotated[bool | None, YesNo()] = None
    secure: Annotated[bool | None, YesNo()] = None
    type: Literal["rom", "pflash"] | None = None
    stateless: Annotated[bool | None, YesNo()] = None
    format: Format | None = None
    path: Annotated[str | None, At(".")] = None


@dataclass(kw_only=True)
class Nvram:
    """`<nvram template='…'>…</nvram>`: the variable store, made from its template at the first start."""

    template: str | None = None
    format: Format | None = None
    path: Annotated[str | None, At(".")] = None


def settle(os: Os, context: Context) -> None:
    """Choose the firmware that `firmware='efi'` asks for, and a place for the variables.

    :raise OperationFailed: when the host has no such firmware.
    :raise OperationInvalid: when it needs SMM and that is switched off.
    :raise XMLSyntaxError: when attributes contradict each other.
    """
    _check_words(os)
    if os.firmware == "efi" and (os.loader is None or not os.loader.path):
        _choose(os, context)
    loader = os.loader
    if loader is None:
        return
    if loader.path and not loader.path.startswith("/"):
        raise XMLError(f"loader path '{loader.path}' must be absolute", origin=ErrorDomain.DOMAIN)
    if loader.path:
        loader.type = loader.type or "rom"  # libvirt: virDomainDefPostParseOs
    if loader.type == "pflash" and not loader.stateless:
        os.nvram = os.nvram or Nvram()
        os.nvram.template = os.nvram.template or context.host.nvram_template(loader.path or "")
        os.nvram.path = os.nvram.path or context.host.path("nvram", context.domain.name, STORE)


def _check_words(os: Os) -> None:
    # libvirt: virDomainDefOSValidate
    loader, wanted = os.loader, _features(os)
    if os.firmware is None and wanted:
        raise _contradiction("cannot use feature-based firmware autoselection when firmware autoselection is disabled")
    if os.firmware is None and (os.nvram or loader) and not (loader and loader.path):
        raise _contradiction("no loader path specified and firmware auto selection disabled")
    if wanted.get("enrolled-keys") and wanted.get("secure-boot") is False:
        raise _contradiction(
            "firmware feature 'enrolled-keys' cannot be enabled when firmware feature 'secure-boot' is disabled"
        )
    if os.firmware and loader and not loader.path and loader.secure is False:
        raise _contradiction("loader attribute 'secure' cannot be specified when firmware autoselection is enabled")
    if os.firmware == "efi" and loader and not loader.path and loader.type == "rom":
        raise _contradiction("loader attribute 'type' cannot be specified when firmware autoselection is enabled")
    if loader and loader.stateless and os.nvram:
        raise _contradiction("NVRAM is not permitted when loader is stateless")


def _contradiction(sentence: str) -> XMLSyntaxError:
    return XMLSyntaxError(sentence, origin=ErrorDomain.DOMAIN)


def _features(os: Os) -> dict[str, bool]:
    return {feature.name: feature.enabled for feature in os.firmware_features}


def _choose(os: Os, context: Context) -> None:
    given = os.loader or Loader()
    image = context.host.firmware(os.arch or "", os.machine or "", _wish(os, given))
    if image.requires_smm:
        _switch_on_smm(context)
    os.loader = Loader(
        readonly=True,
        secure=image.requires_smm or None,  # libvirt: qemuFirmwareEnableFeaturesModern
        type="pflash",
        stateless=given.stateless,
        format="qcow2" if image.loader_format == "qcow2" else None,
        path=image.loader,
    )
    if not given.stateless:
        os.nvram = os.nvram or Nvram()
        os.nvram.template = os.nvram.template or image.nvram_template
        if image.nvram_format == "qcow2":
            os.nvram.format = "qcow2"


def _wish(os: Os, loader: Loader) -> FirmwareWish:
    wanted = _features(os)
    secure, enrolled = wanted.get("secure-boot"), wanted.get("enrolled-keys")
    if enrolled or loader.secure:
        secure = True
    # libvirt takes the first descriptor that fits, which on Debian enforces Secure Boot with Microsoft's keys;
    # a test's own kernel is seldom signed, so here it is only taken when it is asked for.
    return FirmwareWish(secure or False, enrolled if secure else None, bool(loader.stateless))


def _switch_on_smm(context: Context) -> None:
    domain = context.domain
    if domain.features is None or domain.features.smm is None:
        domain.features = domain.features or Features()
        domain.features.smm = True
    elif not domain.features.smm:
        # libvirt: qemuFirmwareEnableFeatures
        raise OperationInvalid("domain has SMM turned off but chosen firmware requires it")


def check(os: Os, context: Context) -> None:
    """Refuse a machine that the firmware does not run on.

    :raise ConfigUnsupported: when it has no ACPI, or is too little for Secure Boot.
    """
    # libvirt: qemuValidateDomainDefBoot, qemuValidateDomainDef
    features = context.domain.features or Features()
    if os.loader is None or os.loader.type != "pflash":
        return
    if os.loader.readonly and not features.acpi:
        raise _refused("UEFI requires ACPI on this architecture")
    if os.loader.secure and not context.is_q35:
        raise _refused("Secure boot is supported with q35 machine types only")
    if os.loader.secure and not features.smm:
        raise _refused("Secure boot requires SMM feature enabled")


def _refused(sentence: str) -> ConfigUnsupported:
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)


def flash_props(os: Os) -> Mapping[str, Json]:
    """-machine's properties for the flash chips."""
    if os.loader is None or os.loader.type != "pflash":
        return {}
    chips: dict[str, Json] = {"pflash0": f"{CODE}-format"}
    return chips | ({"pflash1": f"{VARIABLES}-format"} if os.nvram else {})


def flash_parts(os: Os) -> Iterable[Part]:
    """The block nodes behind the flash chips, or -bios."""
    # libvirt: qemuBuildPflashBlockdevCommandLine, qemuBuildDomainLoaderCommandLine
    if os.loader is None:
        return
    if os.loader.type != "pflash":
        yield option("-bios", os.loader.path or "")
        return
    yield from _flash(CODE, os.loader.path, os.loader.format, readonly=os.loader.readonly is not False)
    if os.nvram:
        yield from _flash(VARIABLES, os.nvram.path, os.nvram.format, readonly=False)
    if os.loader.secure:
        yield option("-global", "driver=cfi.pflash01,property=secure,value=on")


def _flash(node: str, path: str | None, format: Format | None, *, readonly: bool) -> Iterable[Part]:  # noqa: A002
    yield BlockdevPart(
        {
            "driver": "file",
            "filename": path,
            "node-name": f"{node}-storage",
            "auto-read-only": True,
            "discard": "unmap",
        }
    )
    yield BlockdevPart(
        {
            "node-name": f"{node}-format",
            "read-only": readonly,
            "driver": format or "raw",
            "file": f"{node}-storage",
        }
    )
