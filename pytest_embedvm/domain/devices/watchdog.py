"""`<watchdog>`: what happens when the guest hangs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import (
    ConfigUnsupported,
    EmbedError,
    InternalError,
    NoDevice,
    OperationInvalid,
    OperationUnsupported,
)
from pytest_embedvm.qemu.parts import Command, DevicePart, KeyvalPart, Part, option
from pytest_embedvm.xml.scalars import Refusal


@dataclass(kw_only=True)
class Watchdog(Device):
    alias_prefix: ClassVar[str] = "watchdog"
    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    model: Annotated[
        Literal["i6300esb", "ib700", "itco", "diag288"] | None,
        Refusal("unknown watchdog model '{}'", ConfigUnsupported),
    ] = None
    action: Annotated[
        Literal["reset", "shutdown", "poweroff", "pause", "dump", "none", "inject-nmi"],
        Refusal("unknown watchdog action '{}'", ConfigUnsupported),
    ] = "reset"

    @property
    def bus(self) -> Bus | None:
        return "pci" if self.model == "i6300esb" else None

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.WATCHDOG

    def check(self, context: Context) -> None:
        # libvirt: virDomainWatchdogDefParseXML, qemuValidateDomainWatchdogDef
        if self.model is None:
            raise InternalError("watchdog must contain model name", origin=ErrorDomain.DOMAIN)
        if sum(isinstance(device, Watchdog) for device in context.domain.devices.all) > 1:
            raise InternalError("only a single watchdog device is supported", origin=ErrorDomain.DOMAIN)
        if self.model == "diag288":
            raise _refused("diag288 model of watchdog is allowed for s390 and s390x only")
        if self.model != "i6300esb" and self.address is not None:
            raise _refused(f"{self.model} model of watchdog does not support configuring the address")
        if self.model == "itco" and context.domain.os.machine_family != "q35":
            raise _refused("itco model of watchdog is only part of q35 machine")
        if self.action == "dump":
            raise ConfigUnsupported("action='dump' of <watchdog> is not supported by this driver")

    def check_addition(self, others: Iterable[Device], *, live: bool) -> None:
        # libvirt: qemuDomainAttachWatchdog, qemuDomainAttachDeviceConfig
        if any(isinstance(other, Watchdog) for other in others):
            raise OperationInvalid("domain already has a watchdog")

    def check_plug(self) -> None:
        # libvirt: qemuDomainAttachWatchdog
        if self.model != "i6300esb":
            raise OperationUnsupported(f"hotplug of watchdog of model {self.model} is not supported")

    def check_unplug(self, others: Iterable[Device]) -> None:
        # libvirt: qemuDomainDetachPrepWatchdog
        if self.model != "i6300esb":
            raise OperationUnsupported(f"hot unplug of watchdog of model {self.model} is not supported")

    def missing(self, *, live: bool) -> EmbedError:
        # libvirt: qemuDomainDetachPrepWatchdog
        return NoDevice(f"model '{self.model}' watchdog device not present in domain configuration")

    def commands(self, context: Context) -> Iterable[Command]:
        if context.plugging:
            # libvirt: qemuMonitorSetWatchdogAction
            yield Command("watchdog-set-action", {"action": self.action})

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildWatchdogCommandLine; the one on the board is only told that it may act
        if self.model == "itco":
            yield KeyvalPart("-global", "", {"ICH9-LPC.noreboot": False})
        else:
            yield DevicePart({"driver": self.model, "id": self.id} | self.place(context))
        yield option("-watchdog-action", self.action)


def _refused(sentence: str) -> ConfigUnsupported:
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
