"""What a start leaves for those who look from outside."""

from __future__ import annotations

import os
from pathlib import Path

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.qemu.monitor import Monitor
from tests.driver import tiny
from tests.driver.conftest import OpenDriver

PAUSED = DomainCreateFlags.START_PAUSED


def running_pid(machine: Machine) -> int:
    assert machine._running is not None
    return machine._running.process.pid


async def test_a_second_monitor_answers_beside_the_first(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        door = driver.root.path / "lib/qemu/domain-1-a/debug.sock"
        assert (door.stat().st_mode & 0o777, door.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        looking = await Monitor.connect(connect_unix(door), "door")
        try:
            assert await looking.execute("query-name") == {"name": "a"}
            assert '"return"' in await machine.monitor_command('{"execute": "query-status"}')
        finally:
            await looking.close()
    assert not door.exists()


async def test_no_second_monitor_where_none_is_wanted(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        await driver.create_xml(tiny.xml(tmp_path), PAUSED, Client(Options(debug=False)))
        assert not list(driver.root.path.rglob("debug.sock"))


async def test_the_process_id_is_in_the_root_as_long_as_it_runs(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        file = driver.root.path / "run/qemu/a.pid"
        assert int(file.read_text()) == running_pid(machine)
        assert file.stat().st_mode & 0o777 == 0o600
        await machine.destroy()
        assert not file.exists()


async def test_a_domain_may_have_the_name_of_the_lock(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, "driver"), PAUSED)
        lock = driver.root.pid_file
        assert int(lock.read_text()) == os.getpid()
        assert int(driver.root.pid_path("driver").read_text()) == running_pid(machine)
        assert driver.root.pid_path("%64river") != driver.root.pid_path("driver")
        await machine.destroy()
        assert int(lock.read_text()) == os.getpid()
