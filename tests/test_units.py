"""units: sizes as libvirt spells them."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InvalidArgument
from pytest_embedvm.units import scale, to_kib


@pytest.mark.parametrize(
    ("unit", "size"),
    [("b", 1), ("bytes", 1), ("k", 1024), ("K", 1024), ("KiB", 1024), ("KB", 1000), ("MiB", 1 << 20), ("MB", 10**6),
     ("GiB", 1 << 30), ("G", 1 << 30), ("TB", 10**12), ("PiB", 1 << 50), ("EiB", 1 << 60)],
)  # fmt: skip
def test_scale(unit: str, size: int) -> None:
    assert scale(unit) == size


@pytest.mark.parametrize("unit", ["QiB", "kiBi", "x", "M iB"])
def test_an_unknown_unit_is_refused_in_libvirts_words(unit: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        scale(unit)
    assert caught.value.message == f"invalid argument: unknown suffix '{unit}'"
    assert caught.value.origin is ErrorDomain.NONE


@pytest.mark.parametrize(
    ("value", "unit", "kib"), [(1, "MiB", 1024), (1, "b", 1), (1025, "b", 2), (0, "GiB", 0), (1000, "KB", 977)]
)
def test_to_kib_rounds_up(value: int, unit: str, kib: int) -> None:
    assert to_kib(value, unit) == kib
