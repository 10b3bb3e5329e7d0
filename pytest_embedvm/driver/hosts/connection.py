"""The host's libvirt, through libvirt-python: one connection for each of its drivers, used in threads."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import Any, Final, TypeVar

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.driver.uri import DriverName
from pytest_embedvm.errors import HostError, HostMissing, OperationTimeout

T = TypeVar("T")
E = TypeVar("E", bound=IntEnum)

#: Where the host's libvirt is, instead of where libvirt itself would look.
URI_VARIABLE: Final = "EMBEDVM_HOST_URI"

#: How long the host's libvirt may take for an answer.
HOST_TIMEOUT_S: Final = 60.0


class HostConnection:
    """The host's network, secret or storage driver. Must be used on the loop thread; what blocks runs in another.

    Nothing is opened before the first question. A connection that has died is opened anew.
    """

    def __init__(self, kind: DriverName) -> None:
        self.kind = kind
        self._connection: Any = None
        self._opening = asyncio.Lock()

    @property
    def opened(self) -> Any:
        """libvirt-python's virConnect, for those who are being answered."""
        return self._connection

    async def ask(self, question: Callable[[], T]) -> T:
        """The answer to QUESTION, which runs in a thread and finds the connection in `opened`.

        :raise HostMissing: when there is no libvirt-python, or no libvirt daemon.
        :raise HostError: what that answers.
        :raise OperationTimeout: when it does not.
        """
        try:
            async with asyncio.timeout(HOST_TIMEOUT_S):
                async with self._opening:
                    self._connection = await asyncio.to_thread(_alive, self._connection, self.kind)
                return await asyncio.to_thread(_answered, question)
        except TimeoutError:
            self._connection = None
            raise OperationTimeout(
                f"the {self.kind} driver of the host's libvirt ({uris(self.kind)[0]}) did not answer "
                f"within {HOST_TIMEOUT_S:g} s",
                origin=ErrorDomain[self.kind.upper()],
            ) from None

    async def open(self) -> None:
        """Have a connection.

        :raise HostMissing, HostError, OperationTimeout: when there is none to have.
        """
        await self.ask(lambda: None)

    async def close(self) -> None:
        """Hang up; a second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            async with asyncio.timeout(HOST_TIMEOUT_S):
                await asyncio.to_thread(_answered, connection.close)


def uris(kind: DriverName) -> list[str]:
    """Where the host's driver is looked for, in this order."""
    if chosen := os.environ.get(URI_VARIABLE):
        return [chosen]
    # libvirt: virGetConnectGeneric; the second is for clients that know only the one daemon
    path = "system" if os.geteuid() == 0 else "session"
    return [f"{kind}:///{path}", f"qemu:///{path}"]


def library() -> Any:
    """libvirt-python, the real one.

    :raise HostMissing: when it is not installed.
    """
    quiet = "libvirt" not in sys.modules  # else somebody else's handler may be there, and stays
    try:
        found = importlib.import_module("libvirt")
    except ImportError as error:
        raise HostMissing(
            f"the host's libvirt is spoken to through libvirt-python, which is not there ({error}): "
            "install pytest-embedvm[host]",
            code=ErrorNumber.NO_SUPPORT,
            origin=ErrorDomain.NONE,
        ) from None
    if quiet:
        found.registerErrorHandler(_say_nothing, None)
    return found


def _say_nothing(context: object, error: object) -> None:
    """Keep libvirt from writing errors to our standard error; they are raised."""


def _alive(connection: Any, kind: DriverName) -> Any:
    libvirt = library()
    if connection is not None and _answered(connection.isAlive):
        return connection
    failed: list[Exception] = []
    for uri in uris(kind):
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError as error:
            failed.append(error)
    raise _translated(failed[0], HostMissing) from failed[0]


def _answered(question: Callable[[], T]) -> T:
    libvirt = library()
    try:
        return question()
    except libvirt.libvirtError as error:
        raise _translated(error, HostError) from error


def _translated(error: Any, kind: type[HostError]) -> HostError:
    """libvirt-python's ERROR as ours; a number that we do not know is an internal error."""
    return kind(
        error.get_error_message() or str(error),
        code=_member(ErrorNumber, error.get_error_code(), ErrorNumber.INTERNAL_ERROR),
        origin=_member(ErrorDomain, error.get_error_domain(), ErrorDomain.NONE),
    )


def _member(kind: type[E], number: Any, otherwise: E) -> E:
    try:
        return kind(number)
    except ValueError:
        return otherwise
