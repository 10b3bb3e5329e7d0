"""What a function does, as far as its source tells: the key of what it prepares."""

from __future__ import annotations

import functools
import inspect
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Final

_PLAIN: Final = (str, bytes, int, float, complex, bool, type(None))
#: Where installed packages are: they count by no more than their use.
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def source_of(function: Callable[..., object], root: Path) -> str:
    """All of FUNCTION's source that can change what it does.

    That is its own; that of each function and class below ROOT that it, or one of these, calls by its name in the
    module, and what they closed over; the whole file of each module below ROOT that it names; and the values of the
    numbers, strings, bytes, and tuples, lists, sets and dictionaries of such, that it names. Not: methods of objects
    that it is given, installed packages, other values.

    :param root: a directory; installed packages in it do not count.
    :raise TypeError: when the source of FUNCTION itself cannot be found.
    """
    found = _Found(root.resolve())
    found.add("", function, wanted=True)
    return "\n".join(f"# {name}\n{text}" for name, text in sorted(found.texts.items()))


class _Found:
    """Source texts by the names of what they define."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.texts: dict[str, str] = {}

    def add(self, name: str, value: object, *, wanted: bool = False) -> None:
        """Add VALUE, called NAME where it is used, and what it uses in turn.

        :param wanted: fail where it has no source, wherever that is.
        """
        value = inspect.unwrap(value) if callable(value) else value
        match value:
            case functools.partial():
                self._add_values(name, {"func": value.func, "args": value.args, "keywords": value.keywords}, wanted)
            case MethodType():
                self.add(name, value.__func__, wanted=wanted)
            case FunctionType() | type():
                self._add_definition(value, wanted=wanted)
            case ModuleType():
                self._add_module(value)
            case _ if _is_plain(value):
                self.texts[f"{name} ="] = _spelled(value)
            case _ if wanted or callable(value):
                self.add(name, type(value), wanted=wanted)

    def _add_values(self, name: str, values: Mapping[str, object], wanted: bool) -> None:
        for key, value in values.items():
            self.add(f"{name}.{key}", value, wanted=wanted and key == "func")

    def _add_definition(self, value: FunctionType | type, *, wanted: bool) -> None:
        name = f"{value.__module__}.{value.__qualname__}"
        if name in self.texts or not (wanted or self._is_ours(_file_of(value))):
            return
        try:
            self.texts[name] = textwrap.dedent(inspect.getsource(value))
        except (OSError, TypeError) as error:
            if wanted:
                raise TypeError(f"{value!r} has no source that could be seen to change: {error}") from None
            return
        for function in _functions(value):
            self._add_values(name, dict(_used(function)), wanted=False)

    def _add_module(self, module: ModuleType) -> None:
        file = _file_of(module)
        if file is not None and self._is_ours(file):
            self.texts[module.__name__] = file.read_text("utf-8", "surrogateescape")

    def _is_ours(self, file: Path | None) -> bool:
        if file is None or not file.is_file():
            return False
        return file.is_relative_to(self._root) and not _INSTALLED.intersection(file.relative_to(self._root).parts)


def _file_of(value: FunctionType | type | ModuleType) -> Path | None:
    try:
        return Path(inspect.getfile(value)).resolve()
    except (OSError, TypeError):
        return None


def _functions(value: FunctionType | type) -> Iterator[FunctionType]:
    if isinstance(value, FunctionType):
        yield value
        return
    for member in vars(value).values():
        function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)) or member)
        if isinstance(function, FunctionType):
            yield function


def _used(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What FUNCTION finds by its names: in its module, around it, and where a default is."""
    for name in sorted(_names(function.__code__)):
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # it is not bound yet
            continue
    defaults: dict[str, Any] = {str(n): value for n, value in enumerate(function.__defaults__ or ())}
    yield from (defaults | (function.__kwdefaults__ or {})).items()


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *(name for each in inner for name in _names(each))}


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list | set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, (*value, *value.values())))
    return isinstance(value, _PLAIN)


def _spelled(value: object) -> str:
    """VALUE, the same in each process: a set has no order of its own."""
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_spelled, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_spelled(key)}: {_spelled(each)}' for key, each in value.items())}}}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}({', '.join(map(_spelled, value))})"
    return repr(value)
