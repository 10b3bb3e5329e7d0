"""Whether a device is the one that a user describes: what is not said is not compared."""

from __future__ import annotations

import dataclasses
from typing import Any


def resembles(described: Any, other: Any) -> bool:
    """Whether OTHER is as DESCRIBED, another instance of its dataclass, in all that has not its default there."""
    if type(described) is not type(other):
        return False
    return all(_alike(field, getattr(described, field.name), getattr(other, field.name)) for field in _said(described))


def _said(described: Any) -> list[dataclasses.Field[Any]]:
    return [field for field in dataclasses.fields(described) if field.compare and not _is_default(described, field)]


def _is_default(described: Any, field: dataclasses.Field[Any]) -> bool:
    value = getattr(described, field.name)
    default = field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
    return value is None or value == default


def _alike(field: dataclasses.Field[Any], value: Any, other: Any) -> bool:
    if field.name == "address":
        return type(value) is type(other) and str(value) == str(other)
    if isinstance(value, list):
        return len(value) == len(other) and all(map(resembles, value, other))
    if dataclasses.is_dataclass(value):
        return resembles(value, other)
    return bool(value == other)
