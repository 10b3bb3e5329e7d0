"""Calls that this root's own drivers do not answer: the host's libvirt does, or nobody.

Which it is follows from the connection's URI, and from the error domain that a call belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, Self, TypeVar

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.driver.uri import DriverName, Uri
from pytest_embedvm.errors import NoSupport

#: The driver that has the calls of each error domain.
KINDS: Final[Mapping[ErrorDomain, DriverName]] = {
    ErrorDomain.NETWORK: "network",
    ErrorDomain.SECRET: "secret",
    ErrorDomain.STORAGE: "storage",
}


class Hosted(Protocol):
    """A class whose objects may stand for one of libvirt-python's, which has a class of the same name."""

    @classmethod
    def _of_host(cls, conn: Any, theirs: Any) -> Self:
        """Ours for libvirt-python's object THEIRS."""

    def _at_host(self, host: Any) -> Any:
        """Libvirt-python's object that this one stands for, looked up on HOST, a connection of its."""


H = TypeVar("H", bound=type[Hosted])

_ours: Final[dict[str, type[Hosted]]] = {}


def hosted(cls: H) -> H:
    """Have objects of this class come from the host, too."""
    _ours[cls.__name__] = cls
    return cls


def kind_of(uri: Uri | None, origin: ErrorDomain) -> DriverName | None:
    """The driver that has the calls of ORIGIN, unless that is the root's own."""
    kind = KINDS.get(origin)
    return kind if kind and uri and uri.modes[kind] != "private" else None


def require_host(uri: Uri | None, kind: DriverName, function: str) -> None:
    """Return if a connection to URI has this driver of the host's, and it can answer the C FUNCTION.

    :raise NoSupport: when not.
    """
    if uri is None or uri.modes[kind] == "none":
        raise NoSupport(f"{function}: this connection was opened with {kind}=none", origin=ErrorDomain[kind.upper()])
    if function in ("virStorageVolDownload", "virStorageVolUpload"):
        raise NoSupport(f"{function}: streams of the host's volumes are not passed on", origin=ErrorDomain.STORAGE)
    if "Event" in function:
        raise NoSupport(
            f"{function}: events of the host's {kind} driver are not delivered", origin=ErrorDomain[kind.upper()]
        )


async def answer(
    host: HostConnection, conn: Any, ours: Any, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What METHOD of the host's object returns that OURS stands for; objects in it are ours.

    :raise HostError, HostMissing, OperationTimeout: what the host's libvirt says, or that it says nothing.
    """

    def question() -> Any:
        theirs = _theirs(host.opened, ours)
        given = [_theirs(host.opened, value) for value in args]
        named = {name: _theirs(host.opened, value) for name, value in kwargs.items()}
        return _wrapped(conn, getattr(theirs, method)(*given, **named))

    return await host.ask(question)


def _theirs(host: Any, value: Any) -> Any:
    find = getattr(value, "_at_host", None)
    return value if find is None else find(host)


def _wrapped(conn: Any, found: Any) -> Any:
    if isinstance(found, list):
        return [_wrapped(conn, item) for item in found]
    ours = _ours.get(type(found).__name__)
    return found if ours is None else ours._of_host(conn, found)
