"""Values of a configuration as the types that libvirt's getters ask for (libvirt: virConfGetValueBool and the like)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pytest_embedvm.driver.config.keys import Type
from pytest_embedvm.driver.config.syntax import Value
from pytest_embedvm.errors import ConfigSyntax

_INT: Final = range(-(1 << 31), 1 << 31)
_UNSIGNED: Final = range(1 << 32)


def from_python(value: object, where: str) -> Value:
    """VALUE as it would stand in a file; `True` and `False` are libvirt's 1 and 0.

    :raise ConfigSyntax: when it is of a type that no key has.
    """
    match value:
        case bool():
            return Value("bool", int(value), where)
        case int():
            return Value("long" if value < 0 else "unsigned long", value, where)
        case str() if "\0" in value:
            raise ConfigSyntax(f"{where}: a NUL character")
        case str():
            return Value("string", value, where)
        case list() | tuple() if not any(isinstance(item, list | tuple) for item in value):
            return Value("list", tuple(from_python(item, where) for item in value), where)
        case list() | tuple():
            raise ConfigSyntax(f"{where}: expected no list in a list")
    raise ConfigSyntax(f"{where}: expected a bool, an integer, a string or a list, not {type(value).__name__}")


def convert(name: str, type: Type, value: Value) -> Any:  # noqa: A002 - the word of the table
    """What NAME was set to, as Python has it: bool, int, str, or a tuple of str.

    :raise ConfigSyntax: when VALUE is of another type, or out of range.
    """
    return _CONVERTERS[type](name, value)


def _wrong(name: str, value: Value, expected: str) -> ConfigSyntax:
    return ConfigSyntax(f"{value.where}: expected {expected} for '{name}' parameter")


def _bool(name: str, value: Value) -> bool:
    if value.kind not in ("unsigned long", "bool"):
        raise _wrong(name, value, "a bool")
    if value.content not in (0, 1):
        raise ConfigSyntax(f"{value.where}: value for '{name}' parameter must be 0 or 1")
    return value.content == 1


def _within(name: str, value: Value, numbers: range) -> int:
    if not isinstance(value.content, int) or value.content not in numbers:
        raise ConfigSyntax(
            f"{value.where}: value for '{name}' parameter must be in range {numbers.start}:{numbers.stop - 1}"
        )
    return value.content


def _int(name: str, value: Value) -> int:
    if value.kind not in ("long", "unsigned long"):
        raise _wrong(name, value, "a signed integer")
    return _within(name, value, _INT)


def _unsigned(name: str, value: Value) -> int:
    if value.kind != "unsigned long":
        raise _wrong(name, value, "an unsigned integer")
    return _within(name, value, _UNSIGNED)


def _limit(name: str, value: Value) -> int | str:
    # libvirt: virQEMUDriverConfigLoadProcessEntry
    if value.kind == "string" and value.content != "unlimited":
        raise ConfigSyntax(f"{value.where}: Unknown core size '{value.content}'")
    if value.kind not in ("string", "unsigned long"):
        raise _wrong(name, value, "an unsigned integer")
    return "unlimited" if isinstance(value.content, str) else _within(name, value, range(1 << 64))


def _string(name: str, value: Value) -> str:
    if not isinstance(value.content, str):
        raise _wrong(name, value, "a string")
    return value.content


def _list(name: str, value: Value, expected: str = "a string list") -> tuple[str, ...]:
    if not isinstance(value.content, tuple):
        raise _wrong(name, value, expected)
    strings = tuple(item.content for item in value.content if isinstance(item.content, str))
    if len(strings) != len(value.content):
        raise _wrong(name, value, "a string list")
    return strings


def _names(name: str, value: Value) -> tuple[str, ...]:
    return (value.content,) if isinstance(value.content, str) else _list(name, value, "a string or string list")


_CONVERTERS: Final[dict[Type, Callable[[str, Value], Any]]] = {
    "bool": _bool,
    "int": _int,
    "unsigned": _unsigned,
    "limit": _limit,
    "string": _string,
    "list": _list,
    "names": _names,
}
