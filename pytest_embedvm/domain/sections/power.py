"""What happens when the guest powers off, reboots or crashes, and which sleep states it has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Part, option
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import YesNo

Action = Literal["destroy", "restart", "rename-restart", "preserve"]
CrashAction = Literal["destroy", "restart", "rename-restart", "preserve", "coredump-destroy", "coredump-restart"]

_CONTROLLERS: Final = {"q35": "ICH9-LPC", "i440fx": "PIIX4_PM"}


@dataclass(kw_only=True)
class PowerManagement(Section):
    """`<pm>`: S3 and S4."""

    suspend_to_mem: Annotated[bool | None, At("suspend-to-mem/@enabled"), YesNo()] = None
    suspend_to_disk: Annotated[bool | None, At("suspend-to-disk/@enabled"), YesNo()] = None

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildPMCommandLine
        controller = _CONTROLLERS.get(context.domain.os.machine_family)
        for name, enabled in (("disable_s3", self.suspend_to_mem), ("disable_s4", self.suspend_to_disk)):
            if controller and enabled is not None:
                yield option("-global", f"{controller}.{name}={0 if enabled else 1}")


def check_actions(on_poweroff: str, on_reboot: str, on_crash: str) -> None:
    """Refuse combinations that QEMU cannot give.

    :raise ConfigUnsupported: in libvirt's words (qemuValidateDomainLifecycleAction).
    """
    if "rename-restart" in (on_poweroff, on_reboot, on_crash):
        raise ConfigUnsupported(
            "qemu driver doesn't support the 'rename-restart' action for 'on_reboot'/'on_poweroff'/'on_crash'",
            origin=ErrorDomain.QEMU,
        )
    if on_crash.startswith("coredump"):
        raise ConfigUnsupported(f"on_crash action '{on_crash}' is not supported", origin=ErrorDomain.QEMU)
    if on_poweroff == "restart" and on_reboot == "destroy":
        raise ConfigUnsupported(
            "qemu driver doesn't support 'onReboot' set to 'destroy and 'onPoweroff' set to 'reboot'",
            origin=ErrorDomain.QEMU,
        )
    for name, action in (("onPoweroff", on_poweroff), ("onReboot", on_reboot)):
        if action == "preserve":
            raise ConfigUnsupported(
                f"qemu driver doesn't support the 'preserve' action for '{name}'", origin=ErrorDomain.QEMU
            )
