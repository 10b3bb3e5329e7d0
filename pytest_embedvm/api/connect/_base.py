"""What all topics of virConnect stand on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pytest_embedvm.api._object import LibvirtObject
from pytest_embedvm.api._part import Identity
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.domain._base import identify
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine

if TYPE_CHECKING:
    from pytest_embedvm.api.connect import virConnect

T = TypeVar("T")


class Base(LibvirtObject):
    """Questions and orders to the driver, and domains out of its machines."""

    def _at_host(self, host: Any) -> Any:
        return host

    def _ask(self, question: Callable[[Driver], T]) -> T:
        """The answer of the driver, which has it at hand."""

        async def ask() -> T:
            return question(self._session.driver)

        return self._run(ask())

    def _order(self, order: Callable[[Driver], Awaitable[T]]) -> T:
        """The result of what the driver has to do for it."""

        async def carry_out() -> T:
            return await order(self._session.driver)

        return self._run(carry_out())

    def _found(self, search: Callable[[Driver], Machine]) -> virDomain:
        """The domain that the driver has at hand."""
        return self._domain(self._ask(lambda driver: identify(search(driver))))

    def _made(self, order: Callable[[Driver], Awaitable[Machine]]) -> virDomain:
        """The domain that the driver makes."""

        async def make(driver: Driver) -> Identity:
            return identify(await order(driver))

        return self._domain(self._order(make))

    def _domain(self, identity: Identity) -> virDomain:
        return virDomain(cast("virConnect", self), identity)
