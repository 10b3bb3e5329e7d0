"""`<permissions>`: of a pool's directory, of a volume's file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pytest_embedvm.storage.scalars import Id, Mode
from pytest_embedvm.xml.mapping import At


@dataclass(kw_only=True)
class Permissions:
    mode: Annotated[int | None, At("mode"), Mode()] = None
    owner: Annotated[int | None, At("owner"), Id("owner")] = None
    group: Annotated[int | None, At("group"), Id("group")] = None
    label: Annotated[str | None, At("label")] = None
