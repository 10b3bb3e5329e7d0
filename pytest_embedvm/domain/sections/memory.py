"""`<memory>`, `<currentMemory>`, `<vcpu>`: sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Whole


@dataclass(kw_only=True)
class Vcpu:
    """`<vcpu placement='static' current='1'>2</vcpu>`."""

    placement: Literal["static", "auto"] | None = None
    cpuset: str | None = None
    current: Annotated[int | None, Whole(refusal=Refusal("current vcpus count must be an integer"))] = None
    maximum: Annotated[int, At("."), Whole(refusal=Refusal("maximum vcpus count must be an integer"))] = 1
