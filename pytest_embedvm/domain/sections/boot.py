"""`<os>`: machine type, kernel, boot order. Firmware has a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.domain.sections.firmware import Feature, Loader, Nvram, check, flash_parts, flash_props, settle
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import Json, KeyvalPart, Part, option
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Choice, Refusal, YesNo

# libvirt: virArchTypes
ARCHITECTURES: Final = tuple(
    "alpha armv6l armv7l armv7b aarch64 cris i686 ia64 lm32 loongarch64 m68k microblaze microblazeel mips mipsel "
    "mips64 mips64el openrisc parisc parisc64 ppc ppc64 ppc64le ppcemb riscv32 riscv64 s390 s390x sh4 sh4eb sparc "
    "sparc64 unicore32 x86_64 xtensa xtensaeb".split()
)


#: QEMU's own firmware for kernels that are booted directly; it has the tables below the first MiB.
QBOOT: Final = "qboot.rom"

_UNKNOWN_ARCHITECTURE: Final = Refusal("Unknown architecture {}", ConfigUnsupported)


@dataclass(kw_only=True)
class Boot:
    """`<boot dev='hd'/>`."""

    dev: Literal["fd", "hd", "cdrom", "network"]


@dataclass(kw_only=True)
class BootMenu:
    """`<bootmenu enable='yes' timeout='3000'/>`; the timeout is in milliseconds."""

    enable: Annotated[bool, YesNo()]
    timeout: int | None = None


@dataclass(kw_only=True)
class Os(Section):
    """How the machine is made and what it boots."""

    firmware: Literal["bios", "efi"] | None = None
    arch: Annotated[str | None, At("type/@arch"), Choice(ARCHITECTURES, _UNKNOWN_ARCHITECTURE)] = None
    machine: Annotated[str | None, At("type/@machine")] = None
    type: Annotated[
        Literal["hvm", "xen", "linux", "xenpvh", "exe", "uml"] | None,
        At("type"),
        Refusal("unknown OS type '{}'", ConfigUnsupported),
    ] = None
    firmware_features: Annotated[list[Feature], At("firmware/feature")] = field(default_factory=list)
    loader: Loader | None = None
    nvram: Nvram | None = None
    kernel: Annotated[str | None, At("kernel")] = None
    initrd: Annotated[str | None, At("initrd")] = None
    cmdline: Annotated[str | None, At("cmdline")] = None
    boot: list[Boot] = field(default_factory=list)
    bootmenu: BootMenu | None = None
    reboot_timeout: Annotated[int | None, At("bios/@rebootTimeout")] = None  # milliseconds

    @property
    def machine_family(self) -> str:
        """`q35`, `i440fx`, `microvm`, `virt` or another name: what decides buses and implicit devices."""
        name = self.machine or ""
        for family in ("q35", "i440fx", "microvm", "virt"):
            if family in name:
                return family
        return "i440fx" if name == "pc" else name

    def complete(self, context: Context) -> None:
        if self.machine:
            self.machine = context.capabilities.resolve_machine(self.machine).name
        elif context.capabilities.default_machine:
            self.machine = context.capabilities.default_machine.name
        ordered = any(device.own_boot_order is not None for device in context.domain.devices.all)
        if not self.boot and not ordered:
            self.boot = [Boot(dev="hd")]  # libvirt: virDomainDefBootOrderPostParse
        settle(self, context)

    def check(self, context: Context) -> None:
        if not self.type:
            raise XMLError("an os <type> must be specified", origin=ErrorDomain.DOMAIN)
        if self.type != "hvm":
            # libvirt: virQEMUCapsCacheLookupDefault
            raise ConfigUnsupported(
                f"Emulator '{context.domain.devices.emulator}' does not support os type '{self.type}'",
                origin=ErrorDomain.QEMU,
            )
        check(self, context)

    def _crowds_out_acpi(self, context: Context) -> bool:
        """Whether QEMU would put the initrd where SeaBIOS has the tables of ACPI: it counts on no log beside them."""
        domain = context.domain
        logs = any(device.has_firmware_log for device in domain.devices.all)
        tables = domain.features is not None and domain.features.acpi
        return logs and tables and self.loader is None and self.kernel is not None and self.initrd is not None

    def machine_props(self, context: Context) -> Mapping[str, Json]:
        return flash_props(self)

    def parts(self, context: Context) -> Iterable[Part]:
        yield from flash_parts(self)
        if self._crowds_out_acpi(context):
            yield option("-bios", QBOOT)
        # libvirt: qemuBuildBootCommandLine
        props: dict[str, Json] = {}
        if self.bootmenu:
            props["menu"] = self.bootmenu.enable
            if self.bootmenu.timeout is not None:
                props["splash-time"] = self.bootmenu.timeout
        if self.reboot_timeout is not None:
            props["reboot-timeout"] = self.reboot_timeout
        yield KeyvalPart("-boot", "", props | {"strict": True})
        if self.kernel:
            yield option("-kernel", self.kernel)
        if self.initrd:
            yield option("-initrd", self.initrd)
        if self.cmdline:
            yield option("-append", self.cmdline)
