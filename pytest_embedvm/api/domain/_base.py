"""A domain as the API holds it: a name, a uuid and the connection; the machine is looked up at each call."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pytest_embedvm.api._object import LibvirtObject
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import NoDomain

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """What a virDomain keeps when its machine is gone."""

    name: str
    uuid: uuid.UUID


def identify(machine: Machine) -> Identity:
    return Identity(machine.name, machine.uuid)


class Base(LibvirtObject):
    """What all topics of virDomain stand on."""

    def __init__(self, conn: virConnect, _obj: Identity) -> None:
        self._conn = conn
        self._session = conn._session
        self._identity = _obj

    def _machine(self) -> Machine:
        """The machine behind this domain. On the loop thread only.

        :raise NoDomain: when it is gone.
        """
        try:
            return self._session.driver.by_uuid(self._identity.uuid)
        except NoDomain:
            name, number = self._identity.name, self._identity.uuid
            raise NoDomain(f"no domain with matching uuid '{number}' ({name})") from None

    def _ask(self, question: Callable[[Machine], T]) -> T:
        """The answer of the machine, which has it at hand."""

        async def ask() -> T:
            return question(self._machine())

        return self._run(ask())

    def _order(self, order: Callable[[Machine], Awaitable[T]]) -> T:
        """The result of what the machine has to do for it."""

        async def carry_out() -> T:
            return await order(self._machine())

        return self._run(carry_out())
