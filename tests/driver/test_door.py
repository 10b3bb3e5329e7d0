"""The second monitor: what a visitor can do to the machine and to its own monitor, and what he cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainDestroyFlagsValues
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.machine import Machine
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, exists, state

CAPABILITIES = b'{"execute": "qmp_capabilities"}'
#: QEMU's longest answer, some 200 KiB.
SCHEMA = b'{"execute": "query-qmp-schema"}'


def door_of(machine: Machine) -> Path:
    return machine.root.path / f"lib/qemu/domain-{machine.id}-{machine.name}/debug.sock"


@contextlib.contextmanager
def visitor(machine: Machine, *said: bytes) -> Iterator[socket.socket]:
    """Somebody who says this at the door, and reads nothing."""
    with connect_unix(door_of(machine)) as sock:
        sock.setblocking(False)
        for message in said:
            with contextlib.suppress(BlockingIOError):  # QEMU does not read on: it is as stuck as it gets
                sock.sendall(message + b"\n")
        yield sock


VISITORS = {
    "who-says-nothing": (),
    "who-does-not-negotiate": (SCHEMA,),
    "who-never-reads": (CAPABILITIES, *(SCHEMA,) * 200),
    "who-leaves-a-sentence-open": (CAPABILITIES, b'{"execute": "query-'),
    "who-talks-nonsense": (b"\xff\x00<domain/>" * 1000, b"[" * 5000),
}


@pytest.mark.parametrize("said", VISITORS.values(), ids=VISITORS)
async def test_the_machine_does_not_notice_a_visitor(
    embed: OpenDriver, tmp_path: Path, said: tuple[bytes, ...]
) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        with visitor(machine, *said):
            for _ in range(50):  # each with an event, which the visitor gets too
                await machine.suspend()
                await machine.resume()
            assert json.loads(await machine.monitor_command('{"execute": "query-name"}'))["return"] == {"name": "a"}
            await tiny.tell(tmp_path, tiny.RESET)
            await events.until("REBOOT")
            await tiny.tell(tmp_path, tiny.POWER_OFF)
            await events.until("STOPPED/SHUTDOWN")


@pytest.mark.parametrize("flags", [0, DomainDestroyFlagsValues.GRACEFUL])
async def test_a_stuck_visitor_does_not_hold_up_the_end(embed: OpenDriver, tmp_path: Path, flags: int) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        door = door_of(machine)
        assert machine._running
        pid = machine._running.process.pid
        with visitor(machine, *VISITORS["who-never-reads"]):
            await machine.destroy(flags)
            assert not exists(pid)
            assert not door.exists()
            assert not door.parent.exists()


async def test_visitors_take_turns(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        for _ in range(20):
            with visitor(machine) as sock:
                greeting = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 4096), 10)
                assert b'"QMP"' in greeting


async def test_what_a_visitor_does_is_seen_by_the_driver(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        with visitor(machine, CAPABILITIES, b'{"execute": "stop"}'):
            await events.until("SUSPENDED/PAUSED")
            assert state(machine)[0] == "PAUSED"
        with visitor(machine, CAPABILITIES, b'{"execute": "quit"}'):
            await events.until("STOPPED/SHUTDOWN")
