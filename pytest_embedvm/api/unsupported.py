"""The names of libvirt-python that this driver does not implement: they exist, and say so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

from pytest_embedvm.api._object import answering
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import NoSupport

#: pytest shows the line that called, not these.
__tracebackhide__ = True

C = TypeVar("C", bound=type)

#: The class name under which the table lists functions of the module.
MODULE: Final = "-"


def _read() -> dict[str, dict[str, tuple[str, ErrorDomain]]]:
    """The table: class name → method name → C function, error domain."""
    table: dict[str, dict[str, tuple[str, ErrorDomain]]] = {}
    for line in Path(__file__).with_suffix(".txt").read_text("ascii").splitlines():
        if line and not line.startswith("#"):
            owner, name, function, origin = line.split()
            table.setdefault(owner, {})[name] = (function, ErrorDomain[origin])
    return table


TABLE: Final = _read()


def _refusal(owner: str, name: str) -> Callable[..., NoReturn]:
    function, origin = TABLE[owner][name]

    def refuse(*_args: Any, **_kwargs: Any) -> NoReturn:
        with answering():
            raise NoSupport(function, origin=origin)

    refuse.__name__ = name
    refuse.__qualname__ = name if owner == MODULE else f"{owner}.{name}"
    refuse.__doc__ = f"Not implemented by this driver ({function}).\n\n:raise libvirtError: NO_SUPPORT, always."
    return refuse


def unsupported(cls: C) -> C:
    """Give CLS the methods that the table lists for it."""
    for name in TABLE[cls.__name__]:
        setattr(cls, name, _refusal(cls.__name__, name))
    return cls


def unsupported_function(name: str) -> Callable[..., NoReturn]:
    """The module's function NAME, from the table."""
    return _refusal(MODULE, name)
