"""A domain as the API holds it: a name, a uuid and the connection; the machine is looked up at each call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from pytest_embedvm.api._part import Identity, NamedPart
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import NoDomain

T = TypeVar("T")


def identify(machine: Machine) -> Identity:
    return Identity(machine.name, machine.uuid)


class Base(NamedPart):
    """What all topics of virDomain stand on."""

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
