"""`<panic>`: how the guest tells that its kernel has crashed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import IsaAddress
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.xml.scalars import Refusal

_ELSEWHERE = {"pseries": "pSeries", "s390": "S390"}


@dataclass(kw_only=True)
class Panic(Device):
    alias_prefix: ClassVar[str] = "panic"

    model: Annotated[
        Literal["isa", "hyperv", "pseries", "s390"] | None, Refusal("unknown panic model '{}'", ConfigUnsupported)
    ] = None

    def complete(self, context: Context) -> None:
        self.model = self.model or "isa"  # libvirt: qemuDomainDefaultPanicModel

    def check(self, context: Context) -> None:
        # libvirt: virDomainDefPostParseCommon, qemuValidateDomainDefPanic
        same = [d for d in context.domain.devices.all if isinstance(d, Panic) and d.model == self.model]
        if len(same) > 1:
            raise XMLError(f"Multiple panic devices with model '{self.model}'", origin=ErrorDomain.DOMAIN)
        machine = _ELSEWHERE.get(self.model or "")
        if machine:
            raise _refused(f"only {machine} guests support panic device of model '{self.model}'")
        if self.model == "hyperv":
            self._check_hyperv(context)
        elif not isinstance(self.address, IsaAddress | None):
            raise _refused("panic is supported only with ISA address type")

    def _check_hyperv(self, context: Context) -> None:
        if self.address is not None:
            raise _refused("setting the panic device address is not supported for model 'hyperv'")
        if context.domain.type != "kvm":
            # libvirt passes hv-crash, and QEMU without KVM leaves it out without a word
            raise ConfigUnsupported("panic model 'hyperv' needs <domain type='kvm'>")

    def cpu_props(self, context: Context) -> dict[str, Json]:
        return {"hv-crash": True} if self.model == "hyperv" else {}

    def parts(self, context: Context) -> Iterable[Part]:
        if self.model == "hyperv":
            return
        props: dict[str, Json] = {"driver": "pvpanic", "id": self.id}
        if isinstance(self.address, IsaAddress) and self.address.iobase is not None:
            props["ioport"] = self.address.iobase
        yield DevicePart(props)


def _refused(sentence: str) -> ConfigUnsupported:
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
