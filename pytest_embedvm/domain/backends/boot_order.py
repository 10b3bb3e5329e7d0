"""`<boot order='…'/>` of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pytest_embedvm.xml.scalars import Unsigned


@dataclass(kw_only=True)
class BootOrder:
    """Its turn when the firmware looks for something to boot, from 1."""

    order: Annotated[int, Unsigned(positive=True)]
