"""How sizes, modes and owners are spelled in the XML of pools and volumes."""

from __future__ import annotations

import uuid as uuids
from typing import Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import XMLError
from pytest_embedvm.units import MOST_BYTES, to_bytes
from pytest_embedvm.xml.scalars import Scalar, Where

STORAGE: Final = ErrorDomain.STORAGE

#: libvirt: the bits of a mode that its XML can have, virStorageDefParsePerms
_MODES: Final = 0o7777
#: libvirt: -1 in `<owner>` and `<group>` is whoever makes it.
NOBODY: Final = -1


class Bytes(Scalar[int]):
    """A number of bytes, read with any unit of libvirt's."""

    takes_unit = True
    unit = "bytes"

    def read(self, text: str, where: Where) -> int:
        digits = text.strip()
        if not (digits.isascii() and digits.isdigit()) or int(digits) > MOST_BYTES:
            # libvirt: virStorageSize, which says so of allocations too
            raise XMLError("malformed capacity element", origin=STORAGE)
        return to_bytes(int(digits), where.unit or "bytes")

    def write(self, value: int) -> str:
        return str(value)


class ClusterSize(Bytes):
    """Bytes, written as libvirt writes those of a cluster."""

    unit = "B"


class Mode(Scalar[int]):
    """Permissions, in octal."""

    def read(self, text: str, where: Where) -> int:
        digits = text.strip()
        if not digits or set(digits) - set("01234567") or int(digits, 8) > _MODES:
            # libvirt: virStorageDefParsePerms
            raise XMLError("malformed octal mode", origin=STORAGE)
        return int(digits, 8)

    def write(self, value: int) -> str:
        return f"0{value:o}"


class Id(Scalar[int]):
    """The number of a user or a group; -1 is whoever makes it."""

    def __init__(self, what: Literal["owner", "group"]) -> None:
        self.what = what

    def read(self, text: str, where: Where) -> int:
        digits = text.strip()
        if digits == str(NOBODY):
            return NOBODY
        if not (digits.isascii() and digits.isdigit()) or int(digits) > 0xFFFFFFFF:
            # libvirt: virStorageDefParsePerms
            raise XMLError(f"malformed {self.what} element", origin=STORAGE)
        return int(digits)

    def write(self, value: int) -> str:
        return str(value)


class Uuid(Scalar[uuids.UUID]):
    def read(self, text: str, where: Where) -> uuids.UUID:
        try:
            return uuids.UUID(text.strip())
        except ValueError:
            # libvirt: virStoragePoolDefParseXML
            raise XMLError("malformed uuid element", origin=STORAGE) from None

    def write(self, value: uuids.UUID) -> str:
        return str(value)
