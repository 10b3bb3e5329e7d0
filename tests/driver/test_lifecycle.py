"""Every row of libvirt's table of lifecycle events, on real QEMU."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainDestroyFlagsValues,
    DomainRebootFlagValues,
    DomainShutdownFlagValues,
)
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import InternalError, NoDomain, OperationInvalid, SystemFailure
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, state

PAUSED = DomainCreateFlags.START_PAUSED


async def test_created_paused(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        assert await events.so_far(machine) == ["STARTED/BOOTED", "SUSPENDED/PAUSED"]
        assert state(machine) == ("PAUSED", "USER")


async def test_created_running(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED", "STARTED/BOOTED"]
        assert state(machine) == ("RUNNING", "BOOTED")


async def test_suspend_and_resume(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        await events.so_far(machine)
        await machine.resume()
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED"]
        assert state(machine) == ("RUNNING", "UNPAUSED")
        with pytest.raises(OperationInvalid, match=r"^Requested operation is not valid: domain is already running$"):
            await machine.resume()
        await machine.suspend()
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED"]
        await machine.suspend()
        assert await events.so_far(machine) == []
        assert state(machine) == ("PAUSED", "USER")


@pytest.mark.parametrize("flags", [0, DomainDestroyFlagsValues.GRACEFUL])
@pytest.mark.parametrize("start", [0, PAUSED])
async def test_destroy(embed: OpenDriver, tmp_path: Path, flags: int, start: int) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await machine.create(start)
        await events.so_far(machine)
        await machine.destroy(flags)
        assert await events.so_far(machine) == ["SHUTDOWN/HOST", "STOPPED/DESTROYED"]
        assert state(machine) == ("SHUTOFF", "DESTROYED")
        assert machine.id == -1
        with pytest.raises(OperationInvalid, match=r"domain is not running"):
            await machine.destroy()


Act = Callable[[Machine, Path], Awaitable[object]]


async def _kill(machine: Machine, number: signal.Signals) -> None:
    assert machine._running
    os.kill(machine._running.process.pid, number)


async def _reboot_by_power_button(machine: Machine, directory: Path) -> None:
    await machine.reboot(DomainRebootFlagValues.ACPI_POWER_BTN)
    await tiny.tell(directory, tiny.POWER_OFF)


ENDS: dict[str, tuple[str, Act, list[str], tuple[str, str]]] = {
    "SIGKILL": ("", lambda m, _: _kill(m, signal.SIGKILL), ["STOPPED/FAILED"], ("SHUTOFF", "CRASHED")),
    "SIGTERM": (
        "",
        lambda m, _: _kill(m, signal.SIGTERM),
        ["SHUTDOWN/HOST", "STOPPED/SHUTDOWN"],
        ("SHUTOFF", "SHUTDOWN"),
    ),
    "guest powers off": (
        "",
        lambda _, directory: tiny.tell(directory, tiny.POWER_OFF),
        ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"],
        ("SHUTOFF", "SHUTDOWN"),
    ),
    "guest reboots, on_reboot=destroy": (
        "<on_reboot>destroy</on_reboot>",
        lambda _, directory: tiny.tell(directory, tiny.RESET),
        ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"],
        ("SHUTOFF", "SHUTDOWN"),
    ),
    "reset, on_reboot=destroy": (
        "<on_reboot>destroy</on_reboot>",
        lambda m, _: m.reset(),
        ["SHUTDOWN/HOST", "STOPPED/SHUTDOWN"],
        ("SHUTOFF", "SHUTDOWN"),
    ),
    "guest panics": (
        "",
        lambda _, directory: tiny.tell(directory, tiny.PANIC),
        ["CRASHED/PANICKED", "STOPPED/CRASHED"],
        ("SHUTOFF", "CRASHED"),
    ),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("persistent", [True, False])
async def test_ends(embed: OpenDriver, tmp_path: Path, end: str, persistent: bool) -> None:
    extra, act, told, last = ENDS[end]
    xml = tiny.xml(tmp_path, extra=extra, arguments=("-device", "pvpanic"))
    async with embed() as driver:
        events = Events(driver)
        machine = await _start(driver, xml, persistent)
        await events.so_far(machine)
        await act(machine, tmp_path)
        assert await events.until(told[-1]) == told
        assert await events.so_far(machine) == []
        if persistent:
            assert state(machine) == last
            await machine.create()
            assert state(machine) == ("RUNNING", "BOOTED")
        else:
            with pytest.raises(NoDomain, match=rf"no domain with matching uuid '{machine.uuid}' \(a\)"):
                _ = machine.state


async def _start(driver: Driver, xml: str, persistent: bool) -> Machine:
    if not persistent:
        return await driver.create_xml(xml)
    machine = await driver.define_xml(xml)
    await machine.create()
    return machine


async def quit_and_ask(machine: Machine) -> None:
    await machine.monitor_command('{"execute": "quit"}')  # the reply may or may not come
    await machine.monitor_command('{"execute": "query-status"}')


async def test_quit_behind_its_back(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        await events.so_far(machine)
        with pytest.raises(SystemFailure, match=r"^Unable to read from monitor: Connection reset by peer$"):
            await quit_and_ask(machine)
        assert await events.until("STOPPED/SHUTDOWN") == ["SHUTDOWN/HOST", "STOPPED/SHUTDOWN"]


RESTARTS: dict[str, tuple[str, Act]] = {
    "guest reboots": ("", lambda _, directory: tiny.tell(directory, tiny.RESET)),
    "reset": ("", lambda m, _: m.reset()),
    "power-off, on_poweroff=restart": (
        "<on_poweroff>restart</on_poweroff>",
        lambda _, directory: tiny.tell(directory, tiny.POWER_OFF),
    ),
    "reboot by the power button": ("", _reboot_by_power_button),
}


@pytest.mark.parametrize("restart", RESTARTS)
async def test_restarts(embed: OpenDriver, tmp_path: Path, restart: str) -> None:
    extra, act = RESTARTS[restart]
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path, extra=extra))
        await events.so_far(machine)
        await act(machine, tmp_path)
        assert await events.until("REBOOT") == ["REBOOT"]
        await tiny.tell(tmp_path, b"x")  # the guest is there again
        assert await events.so_far(machine) == []
        assert state(machine) == ("RUNNING", "BOOTED")
        await tiny.tell(tmp_path, tiny.RESET)  # and what was pressed once counts once
        assert await events.until("REBOOT") == ["REBOOT"]


async def test_stop_and_cont_behind_its_back(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        await events.so_far(machine)
        assert json.loads(await machine.monitor_command('{"execute": "stop"}'))["return"] == {}
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED"]
        assert state(machine) == ("PAUSED", "UNKNOWN")
        await machine.monitor_command('{"execute": "cont"}')
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED"]
        assert state(machine) == ("RUNNING", "UNPAUSED")


async def test_define_redefine_undefine(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.define_xml(tiny.xml(tmp_path))
        assert await events.so_far(machine) == ["DEFINED/ADDED"]
        assert await driver.define_xml(tiny.xml(tmp_path)) is machine
        assert await events.so_far(machine) == ["DEFINED/UPDATED"]
        await machine.undefine()
        assert await events.so_far(machine) == ["UNDEFINED/REMOVED"]
        assert driver.machines() == []


async def test_the_power_button_alone_ends_nothing(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path))
        await events.so_far(machine)
        await machine.shutdown(DomainShutdownFlagValues.ACPI_POWER_BTN)
        assert await events.so_far(machine) == []
        await machine.suspend()
        with pytest.raises(OperationInvalid, match=r"domain is not running"):
            await machine.shutdown()


async def test_qemu_that_does_not_start_says_why(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        with pytest.raises(InternalError) as caught:
            await driver.create_xml(tiny.xml(tmp_path, arguments=("-nosuch",)))
        assert caught.value.message == (
            "internal error: process exited while connecting to monitor: qemu-system-x86_64: -nosuch: invalid option"
        )
        assert driver.machines() == []
        machine = await driver.define_xml(tiny.xml(tmp_path, arguments=("-nosuch",)))
        with pytest.raises(InternalError):
            await machine.create()
        assert state(machine) == ("SHUTOFF", "FAILED")
        assert await events.so_far(machine) == ["DEFINED/ADDED"]


async def test_a_start_that_is_cancelled_leaves_nothing(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path))
        for turns in range(20):  # wherever it is interrupted
            task = asyncio.create_task(machine.create())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            if machine.active:
                await machine.destroy()
            assert not list((driver.root.path / "lib/qemu").glob("domain-*"))
        await machine.create()
        assert state(machine) == ("RUNNING", "BOOTED")
