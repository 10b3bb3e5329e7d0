"""Firmware: `<loader>`, `<nvram>`, `firmware='efi'`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.errors import ConfigUnsupported, XMLError
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
    type: Literal["rom", "pflash"] | None = None
    secure: Annotated[bool | None, YesNo()] = None
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
    :raise ConfigUnsupported: when attributes contradict each other.
    """
    if os.firmware == "efi" and os.loader is None:
        _choose(os, context)
    if os.loader is None:
        return
    if os.loader.path and not os.loader.path.startswith("/"):
        raise XMLError(f"loader path '{os.loader.path}' must be absolute", origin=ErrorDomain.DOMAIN)
    if os.loader.type == "pflash" and not os.loader.stateless:
        os.nvram = os.nvram or Nvram()
        os.nvram.template = os.nvram.template or context.host.nvram_template(os.loader.path or "")
        os.nvram.path = os.nvram.path or context.host.path("nvram", context.domain.name, STORE)


def _choose(os: Os, context: Context) -> None:
    wanted = {feature.name: feature.enabled for feature in os.firmware_features}
    secure = wanted.get("secure-boot", False) or wanted.get("enrolled-keys", False)
    smm = context.domain.features.smm if context.domain.features else None
    if secure and smm is False:
        raise ConfigUnsupported("Secure Boot requires SMM feature enabled", origin=ErrorDomain.DOMAIN)
    # libvirt takes the first descriptor that fits, which on Debian enforces Secure Boot with Microsoft's keys;
    # a test's own kernel is seldom signed, so here it is only taken when it is asked for.
    image = context.host.firmware(
        os.arch or "", os.machine or "", secure_boot=secure, smm=bool(smm) or (secure and smm is None)
    )
    os.loader = Loader(readonly=True, type="pflash", secure=image.secure or None, path=image.loader)
    if image.loader_format != "raw":
        os.loader.format = "qcow2"
    os.nvram = os.nvram or Nvram()
    os.nvram.template = os.nvram.template or image.nvram_template


def flash_props(os: Os) -> Mapping[str, Json]:
    """-machine's properties for the flash chips."""
    if os.loader is None or os.loader.type != "pflash":
        return {}
    chips: dict[str, Json] = {"pflash0": f"{CODE}-format"}
    if os.loader.secure:
        chips = {"smm": True} | chips
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
