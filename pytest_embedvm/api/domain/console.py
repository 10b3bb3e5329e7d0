"""A domain's consoles and channels, on streams."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.api.stream import Pipe, virStream
from pytest_embedvm.constants import DomainChannelFlags, DomainConsoleFlags, ErrorDomain
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import InvalidStream, OperationInvalid

CONSOLE = DomainConsoleFlags.FORCE | DomainConsoleFlags.SAFE


class Console(Base):
    """openConsole, openChannel."""

    @public("virDomainOpenConsole", writes=True)
    def openConsole(self, dev_name: str | None, st: virStream, flags: int = 0) -> int:
        """Put the console with the alias DEV_NAME, or the first one, behind the stream ST.

        :raise libvirtError: OPERATION_INVALID when the domain does not run, or ST is open already.
        """
        force = DomainConsoleFlags.FORCE in arguments.known(flags, CONSOLE, "qemuDomainOpenConsole")

        async def opened(machine: Machine) -> Pipe:
            return await self._session.keep(Pipe(await machine.open_console(dev_name, force=force)))

        return self._open(st, "virDomainOpenConsole", opened)

    @public("virDomainOpenChannel", writes=True)
    def openChannel(self, name: str | None, st: virStream, flags: int = 0) -> int:
        """Put the channel with the alias NAME, or that name in the guest, or the first one, behind the stream ST.

        :raise libvirtError: OPERATION_INVALID when the domain does not run, or ST is open already; OPERATION_FAILED
            when the channel is, and FLAGS do not say FORCE; INTERNAL_ERROR when there is none.
        """
        force = bool(arguments.known(flags, DomainChannelFlags.CHANNEL_FORCE, "qemuDomainOpenChannel"))

        async def opened(machine: Machine) -> Pipe:
            return await self._session.keep(Pipe(await machine.open_channel(name, force=force)))

        return self._open(st, "virDomainOpenChannel", opened)

    def _open(self, st: virStream, function: str, order: Callable[[Machine], Coroutine[Any, Any, Pipe]]) -> int:
        if not isinstance(st, virStream):
            raise InvalidStream(function)
        if st._pipe is not None:
            raise OperationInvalid("stream is already open", origin=ErrorDomain.STREAMS)
        st._attach(self._order(order))
        return 0
