"""What objects of a connection stand on: an identity, by which their part of the root is looked up at each call."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pytest_embedvm.api._object import LibvirtObject
from pytest_embedvm.driver.driver import Driver

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect


class Numbered(Protocol):
    """An identity that is a uuid, and perhaps more."""

    @property
    def uuid(self) -> uuid.UUID: ...


@dataclass(frozen=True)
class Identity:
    """What an object keeps when that for which it stands is gone."""

    name: str
    uuid: uuid.UUID


I = TypeVar("I")  # noqa: E741
N = TypeVar("N", bound=Numbered)
D = TypeVar("D")
L = TypeVar("L")
T = TypeVar("T")


class Part(LibvirtObject, Generic[I]):
    """Something of a connection's."""

    def __init__(self, conn: virConnect, _obj: I) -> None:
        self._conn = conn
        self._session = conn._session
        self._identity = _obj

    def connect(self) -> virConnect:
        """The connection it came from: the same object."""
        return self._conn


class NumberedPart(Part[N]):
    """Something with a uuid."""

    def UUID(self) -> bytes:
        """Its uuid, 16 bytes."""
        return self._identity.uuid.bytes

    def UUIDString(self) -> str:
        """Its uuid, as text."""
        return str(self._identity.uuid)


class NamedPart(NumberedPart[Identity]):
    """Something with a name and a uuid."""

    def name(self) -> str:
        """The name it had when this object was made; a rename does not reach it."""
        return self._identity.name


class Secondary(LibvirtObject, Generic[D, L]):
    """What belongs to a secondary driver D of the root, which has it as L."""

    @staticmethod
    def _among(driver: Driver) -> D:
        """The secondary driver."""
        raise NotImplementedError

    def _find(self, driver: Driver) -> L:
        """What it is. On the loop thread only.

        :raise EmbedError: when it is gone.
        """
        raise NotImplementedError

    def _ask(self, question: Callable[[D, L], T]) -> T:
        """The answer of the secondary driver, which has it at hand."""

        async def ask() -> T:
            driver = self._session.driver
            return question(self._among(driver), self._find(driver))

        return self._run(ask())

    def _order(self, order: Callable[[D, L], Awaitable[T]]) -> T:
        """The result of what the secondary driver has to do for it."""

        async def carry_out() -> T:
            driver = self._session.driver
            return await order(self._among(driver), self._find(driver))

        return self._run(carry_out())
