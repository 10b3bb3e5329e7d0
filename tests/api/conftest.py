"""Connections to a fake driver."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.connect import opening
from tests.fakes.driver import FakeDriver

URI = "qemu:///embed?root=/r"


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> list[FakeDriver]:
    """The fake drivers that were opened, in order."""
    monkeypatch.setattr(opening, "Driver", FakeDriver)
    monkeypatch.setattr(FakeDriver, "made", [])
    return FakeDriver.made


@pytest.fixture
def conn(drivers: list[FakeDriver]) -> Iterator[libvirt.virConnect]:
    """A connection to a fake driver; a test may close it."""
    connection = libvirt.open(URI)
    yield connection
    if not connection._session.closed:
        connection.close()
    libvirt.virResetLastError()


@pytest.fixture
def driver(conn: libvirt.virConnect, drivers: list[FakeDriver]) -> FakeDriver:
    """The fake behind `conn`."""
    return drivers[0]
