"""What all objects of the API stand on: one session, and the one crossing to the loop thread."""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Final, ParamSpec, Protocol, TypeVar, cast

from pytest_embedvm.api import arguments, elsewhere
from pytest_embedvm.api.error import report, virResetLastError
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver import access
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.events import Kind
from pytest_embedvm.driver.uri import DriverName
from pytest_embedvm.errors import EmbedError, InternalError, InvalidConnection, OperationDenied, OperationInvalid
from pytest_embedvm.loop import LoopThread, to_its_end

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: How long callbacks may take for the events before a close.
DRAIN_TIMEOUT_S: Final = 5.0

P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound="LibvirtObject")


class Closable(Protocol):
    """What has to be closed, and can be twice."""

    async def close(self) -> None: ...


C = TypeVar("C", bound=Closable)


class Unexpected(InternalError):
    """The driver raised what it never promised: a defect, whose traceback is the cause."""


class ClosedMeanwhile(InvalidConnection):
    """Another thread closed the connection between the check of a call and its turn on the loop."""


class answering:
    """One call of the API: the thread's last error is cleared, and an error by meaning becomes a libvirtError.

    A class, because a generator's frames would be the last of each traceback.
    """

    def __enter__(self) -> None:
        virResetLastError()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, EmbedError):
            raise report(error) from (error.__cause__ if isinstance(error, Unexpected) else None)


def _run(loop: LoopThread, coroutine: Coroutine[Any, Any, T]) -> T:
    """The one crossing: run COROUTINE on the loop thread.

    :raise EmbedError: what the driver raised; anything else it raised becomes an `InternalError`
        that has the original as its cause.
    """
    try:
        return loop.run(coroutine)
    except EmbedError:
        raise
    except Exception as error:
        raise Unexpected(f"{type(error).__name__}: {error}") from error


class Session:
    """What a connection shares with every object that came from it. It ends once.

    `client` is what the driver sees of it, `policy` who may call what.
    """

    def __init__(
        self, uri: str, driver: Driver, client: Client, loop: LoopThread, policy: access.Policy, *, readonly: bool
    ) -> None:
        self.uri = uri
        self.client = client
        self._driver = driver
        self.loop = loop
        self.policy = policy
        self.readonly = readonly
        self.closed = False
        self._ending = False
        self._pid = os.getpid()
        #: What it registered, and of which family each is.
        self.callbacks: dict[int, type[Kind]] = {}
        self.lifecycle_callbacks: dict[object, int] = {}
        #: What is open behind its streams.
        self.pipes: set[Closable] = set()

    def check(self, function: str, origin: ErrorDomain, *, writes: bool) -> None:
        """Refuse the call FUNCTION on a closed connection, one that WRITES on a read-only one, and what nobody may.

        :raise InvalidConnection: when the connection is closed.
        :raise OperationInvalid: in a forked child, which has none of the driver's threads.
        :raise OperationDenied: when it is read-only.
        :raise AccessDenied: when the policy does not let it through.
        """
        if self.closed:
            raise InvalidConnection(function, origin=origin)
        if self._pid != os.getpid():
            raise OperationInvalid(
                f"this connection belongs to process {self._pid}, this is process {os.getpid()}: "
                "a forked child must open a root of its own"
            )
        if writes and self.readonly:
            raise OperationDenied(f"read only access prevents {function}")
        access.require(self.policy, function, writes=writes)

    async def end(self, *, drain: bool = True) -> None:
        """Take this connection's callbacks away and give the driver back.

        :param drain: whether what has happened so far is told first; not from inside a callback, which would wait
            for itself.
        :raise InvalidConnection: when another thread was faster.
        """
        if self.closed or self._ending:
            raise InvalidConnection("virConnectClose", origin=ErrorDomain.NONE)
        self._ending = True
        await to_its_end(self._end(drain=drain))

    async def _end(self, *, drain: bool) -> None:
        if drain and self.callbacks and not await self._driver.events.drain(DRAIN_TIMEOUT_S):
            self._driver.root.log.warning("not all events were told within %g s of a close()", DRAIN_TIMEOUT_S)
        self.closed = True
        for number in self.callbacks:
            self._driver.events.deregister(number)
        await self._give_back()

    async def _give_back(self) -> None:
        try:
            await asyncio.gather(*(self.let_go(pipe) for pipe in self.pipes))
        finally:
            await self._driver.close(self.client)

    async def keep(self, pipe: C) -> C:
        """PIPE, which will be closed with the connection.

        :raise ClosedMeanwhile: when the connection was closed while it was opened.
        """
        if self.closed:
            await pipe.close()
            raise ClosedMeanwhile("virConnectClose")
        self.pipes.add(pipe)
        return pipe

    async def let_go(self, pipe: Closable) -> None:
        """Close PIPE, now."""
        self.pipes.discard(pipe)
        await pipe.close()

    def delivers_here(self) -> bool:
        """Whether this is the thread of the callbacks: one of them is running."""
        return self._driver.events.delivers_here()

    @property
    def driver(self) -> Driver:
        """The driver, which must not be asked any more when it was closed while a call was on its way to the loop.

        :raise ClosedMeanwhile: when it was.
        """
        if self.closed:
            raise ClosedMeanwhile("virConnectClose")
        return self._driver

    def abandon(self) -> None:
        """End without waiting: nobody holds the connection any more. Runs wherever the garbage is collected."""
        if not self.closed and self.loop.alive:
            self.loop.leave(self._abandoned())

    async def _abandoned(self) -> None:
        try:
            await self.end()
        except InvalidConnection:
            pass  # another thread closed it meanwhile
        except EmbedError as error:
            self._driver.root.log.error("a connection that nobody holds did not end well: %s", error)  # noqa: TRY400


class LibvirtObject:
    """An object of the API."""

    _session: Session

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return _run(self._session.loop, coroutine)

    def _elsewhere(
        self, kind: DriverName, function: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> object:
        """What the host's libvirt answers to METHOD, which is the C FUNCTION."""

        async def ask() -> object:
            host = self._session.driver.hosts[kind]
            return await elsewhere.answer(host, conn, self, method, args, kwargs)

        elsewhere.require_host(self._session.client.uri, kind, function)
        conn = getattr(self, "_conn", self)  # a connection is its own
        return self._run(ask())


def public(
    function: str, *, writes: bool = False, origin: ErrorDomain = ErrorDomain.DOMAIN
) -> Callable[[Callable[Concatenate[S, P], T]], Callable[Concatenate[S, P], T]]:
    """A method that is libvirt's C FUNCTION: checked, and failing in libvirt's words.

    :raise libvirtError: INVALID_CONN after close, OPERATION_DENIED when it WRITES on a read-only
        connection, and whatever the driver found.
    """

    def decorate(method: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
        @functools.wraps(method)
        def call(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with answering():
                self._session.check(function, origin, writes=writes)
                arguments.c_strings((*args, *kwargs.values()))
                try:
                    if kind := elsewhere.kind_of(self._session.client.uri, origin):
                        return cast("T", self._elsewhere(kind, function, method.__name__, args, kwargs))
                    return method(self, *args, **kwargs)
                except ClosedMeanwhile:
                    raise InvalidConnection(function, origin=origin) from None

        return call

    return decorate
