"""Sizes and rates as libvirt spells them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InvalidArgument, NumericalOverflow

KIB: Final = 1024
MIB: Final = 1024 * KIB

#: The most bytes a size may have. libvirt: virMemoryMaxValue
MOST_BYTES: Final = (1 << 63) - 1

_POWERS: Final = {"k": 1, "m": 2, "g": 3, "t": 4, "p": 5, "e": 6}


@dataclass(frozen=True)
class Rate:
    """KiB per second on `average` and at most (`peak`), and the KiB that pass at peak speed in a `burst`."""

    average: int
    peak: int | None = None
    burst: int | None = None


@dataclass(frozen=True)
class Rates:
    """What limits a card: what comes in to the guest, and what it sends."""

    inbound: Rate | None = None
    outbound: Rate | None = None


def scale(unit: str) -> int:
    """The number of bytes in one UNIT: `KiB`, `k`, `K`, `MB` and so on, as libvirt reads them.

    :raise InvalidArgument: when libvirt knows no such suffix.
    """
    # libvirt: virScaleInteger: "b", "byte(s)", X, XiB are powers of 1024, XB of 1000, case ignored.
    suffix = unit.lower()
    if suffix in ("", "b", "byte", "bytes"):
        return 1
    power = _POWERS.get(suffix[0])
    if power is None or suffix[1:] not in ("", "b", "ib"):
        raise InvalidArgument(f"unknown suffix '{unit}'", origin=ErrorDomain.NONE)
    return int((1000 if suffix[1:] == "b" else 1024) ** power)


def read_size(text: str) -> int:
    """The bytes that TEXT says, a number and a unit of `scale`: `4G`, `1.5 GiB`, `500MB`, `0`.

    :raise InvalidArgument: when it is no size.
    :raise NumericalOverflow: when that is more than 2^63 - 1 bytes.
    """
    found = re.fullmatch(r"(\d+)(\.\d+)?\s*([A-Za-z]*)", text.strip(), re.ASCII)
    if found is None:
        raise InvalidArgument(f"'{text}' is no size; write 500M, 4G or 1.5GiB", origin=ErrorDomain.NONE)
    whole, part, unit = found.groups()
    return to_bytes(int(whole), unit) + int(float(part or 0) * scale(unit))


def to_kib(value: int, unit: str) -> int:
    """VALUE of UNIT in KiB, rounded up as libvirt does (virDomainParseMemory).

    :raise InvalidArgument: when libvirt knows no such unit.
    :raise NumericalOverflow: when that is more than 2^63 - 1 bytes.
    """
    return -(-to_bytes(value, unit) // KIB)


def to_bytes(value: int, unit: str) -> int:
    """VALUE of UNIT in bytes.

    :raise InvalidArgument: when libvirt knows no such unit.
    :raise NumericalOverflow: when that is more than 2^63 - 1 bytes.
    """
    factor = scale(unit)
    if value > MOST_BYTES // factor:
        # libvirt: virScaleInteger
        raise NumericalOverflow(f"value too large: {value}{unit}", origin=ErrorDomain.NONE)
    return value * factor
