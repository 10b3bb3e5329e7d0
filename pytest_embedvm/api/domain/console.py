"""A domain's console, on a stream."""

from __future__ import annotations

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.api.stream import Pipe, virStream
from pytest_embedvm.constants import DomainConsoleFlags, ErrorDomain
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import InvalidStream, OperationInvalid

CONSOLE = DomainConsoleFlags.FORCE | DomainConsoleFlags.SAFE


class Console(Base):
    """openConsole."""

    @public("virDomainOpenConsole", writes=True)
    def openConsole(self, dev_name: str | None, st: virStream, flags: int = 0) -> int:
        """Put the console with the alias DEV_NAME, or the first one, behind the stream ST.

        :raise libvirtError: OPERATION_INVALID when the domain does not run, or ST is open already.
        """
        if not isinstance(st, virStream):
            raise InvalidStream("virDomainOpenConsole")
        checked = arguments.known(flags, CONSOLE, "qemuDomainOpenConsole")
        if st._pipe is not None:
            raise OperationInvalid("stream is already open", origin=ErrorDomain.STREAMS)

        async def opened(machine: Machine) -> Pipe:
            return await self._session.keep(Pipe(await machine.open_console(dev_name, checked)))

        st._attach(self._order(opened))
        return 0
