"""What libvirt's public layer checks before a driver sees it."""

from __future__ import annotations

import operator
import uuid
from collections.abc import Iterable
from enum import IntFlag
from typing import Final, TypeVar

from pytest_embedvm.constants import DomainModificationImpact, ErrorDomain
from pytest_embedvm.errors import InvalidCall

F = TypeVar("F", bound=IntFlag)

UNSIGNED_INT: Final = 0xFFFFFFFF
UUID_BYTES: Final = 16


def known(flags: int, allowed: F, function: str, origin: ErrorDomain = ErrorDomain.QEMU) -> F:
    """FLAGS as members of the enum of ALLOWED.

    :raise InvalidCall: when a bit is set that FUNCTION, the driver's C function, does not know.
    :raise TypeError: when FLAGS is no integer.
    """
    # libvirt: virCheckFlags. The binding reads an unsigned int, so -1 is all bits.
    raw = operator.index(flags) & UNSIGNED_INT
    unknown = raw & ~int(allowed)
    if unknown:
        raise InvalidCall(f"unsupported flags (0x{unknown:x}) in function {function}", origin=origin)
    return type(allowed)(raw)


def c_strings(values: Iterable[object]) -> None:
    """Check that the texts among VALUES are what the binding can hand to C.

    :raise ValueError: when one holds a NUL character.
    :raise UnicodeEncodeError: when one holds half a surrogate pair.
    """
    for value in values:
        if isinstance(value, str) and b"\0" in value.encode():
            raise ValueError("embedded null character")


def none(flags: int, function: str) -> None:
    """Check a call that knows no flags at all.

    :raise InvalidCall: when a bit is set.
    """
    known(flags, DomainModificationImpact.CURRENT, function)


def impact(flags: int) -> None:
    """Check that a question is about the running machine or about its definition, not both.

    :raise InvalidCall: when both bits are set.
    """
    both = DomainModificationImpact.LIVE | DomainModificationImpact.CONFIG
    if operator.index(flags) & both == both:
        raise InvalidCall("Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive")


def text(value: str | None, name: str, function: str, origin: ErrorDomain = ErrorDomain.DOMAIN) -> str:
    """VALUE, which the C function may not be given as NULL.

    :raise InvalidCall: when it is None.
    :raise TypeError: when it is no string.
    """
    if value is None:
        raise InvalidCall(f"{name} in {function} must not be NULL", origin=origin)
    if not isinstance(value, str):
        raise TypeError(f"{function}() argument '{name}' must be str or None, not {type(value).__name__}")
    return value


def absent(value: str | None, name: str, function: str) -> None:
    """Check that VALUE, which makes no sense here, was not given.

    :raise InvalidCall: when it was.
    """
    if value is not None:
        raise InvalidCall(f"{name} in {function} must be NULL")


def uuid_from_string(value: str | None) -> uuid.UUID:
    """VALUE as libvirt reads it: 32 hexadecimal digits, dashes anywhere between bytes.

    :raise InvalidCall: when it is no UUID.
    """
    digits = text(value, "uuidstr", "virDomainLookupByUUIDString").strip().replace("-", "")
    # Not UUID(value) alone, which also takes braces, "urn:uuid:" and, through int(), underscores.
    if len(digits) != 2 * UUID_BYTES or not all(c in "0123456789abcdefABCDEF" for c in digits):
        raise InvalidCall("Invalid UUID")
    return uuid.UUID(digits)


def uuid_from_bytes(value: bytes) -> uuid.UUID:
    """VALUE, 16 bytes, as a UUID.

    :raise InvalidCall: when it is not 16 bytes long.
    :raise TypeError: when it is no bytes.
    """
    raw = bytes(memoryview(value))
    if len(raw) != UUID_BYTES:
        raise InvalidCall(f"uuid in virDomainLookupByUUID must be {UUID_BYTES} bytes, not {len(raw)}")
    return uuid.UUID(bytes=raw)
