"""`<seclabel>`: there is no security driver here, and a domain that asks for one is told so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.domain.sections._base import Section
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.xml.scalars import YesNo


@dataclass(kw_only=True)
class Seclabel(Section):
    """`<seclabel type='none'/>`."""

    type: Literal["dynamic", "static", "none"] | None = None
    model: str | None = None
    relabel: Annotated[bool | None, YesNo()] = None

    def check(self, context: Context) -> None:
        if self.type != "none":
            # libvirt: virSecurityManagerGenLabel
            raise ConfigUnsupported(
                f"Security driver model '{self.model or self.type}' is not available", origin=ErrorDomain.SECURITY
            )
