"""units: sizes as libvirt spells them."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InvalidArgument, NumericalOverflow
from pytest_embedvm.units import read_size, scale, to_kib


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


@pytest.mark.parametrize(
    ("text", "size"),
    [("4G", 4 << 30), ("1.5 GiB", 3 << 29), ("500MB", 500 * 10**6), ("0", 0), (" 12 ", 12), ("0.5k", 512)],
)  # fmt: skip
def test_a_size_that_people_write(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1,5G", "4 G B", ".5G", "1e3", "٤G", "nan", "4Q"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        read_size(text)


def test_a_size_beyond_all_disks_is_refused() -> None:
    with pytest.raises(NumericalOverflow):
        read_size("8E")
