"""Calls that the end of the last connection overtakes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import InvalidConnection
from tests.driver import tiny

CALLS: dict[str, Callable[[Driver, str], Awaitable[Machine]]] = {
    "virDomainCreateXML": lambda driver, xml: driver.create_xml(xml),
    "virDomainDefineXML": lambda driver, xml: driver.define_xml(xml),
}


@pytest.mark.parametrize("name", CALLS)
async def test_what_reads_its_xml_while_the_root_is_closed_makes_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = await Driver.open(make_uri(tmp_path / "root"))
    reading, closed, prepare = asyncio.Event(), asyncio.Event(), driver.host.prepare

    async def slow(emulator: str) -> object:
        found = await prepare(emulator)
        reading.set()
        await closed.wait()
        return found

    monkeypatch.setattr(driver.host, "prepare", slow)
    call = asyncio.ensure_future(CALLS[name](driver, tiny.xml(tmp_path)))
    await reading.wait()
    await driver.close()
    closed.set()
    with pytest.raises(InvalidConnection, match=name):
        await call
    assert list(driver.registry) == []
    assert not list((tmp_path / "root").rglob("*a.xml"))
    assert not list((tmp_path / "root").rglob("a.log"))
