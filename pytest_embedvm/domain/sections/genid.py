"""`<genid>`: a number by which a guest notices that it is another than it was, and draws other random numbers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.parts import DevicePart, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Scalar, Where


class _Generation(Scalar[uuid.UUID | None]):
    def read(self, text: str, where: Where) -> uuid.UUID | None:
        try:
            return uuid.UUID(text.strip()) if text else None
        except ValueError:
            raise InternalError("malformed genid element", origin=ErrorDomain.DOMAIN) from None

    def write(self, value: uuid.UUID | None) -> str:
        return str(value or "")


@dataclass(kw_only=True)
class GenerationId(Section):
    """`<genid>UUID</genid>`, or `<genid/>` for one that is made up."""

    value: Annotated[uuid.UUID | None, At("."), _Generation()] = None

    def complete(self, context: Context) -> None:
        self.value = self.value or context.host.new_uuid()

    def check(self, context: Context) -> None:
        if not context.capabilities.has_device("vmgenid"):
            # libvirt: qemuValidateDomainDef
            raise ConfigUnsupported("this QEMU does not support the 'genid' capability", origin=ErrorDomain.QEMU)

    def renew(self, new_uuid: Callable[[], uuid.UUID]) -> None:
        """Have the guest, which goes on from where it was once, notice."""
        # libvirt: qemuProcessGenID
        self.value = new_uuid()

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildVMGenIDCommandLine
        yield DevicePart({"driver": "vmgenid", "guid": str(self.value), "id": "vmgenid0"})
