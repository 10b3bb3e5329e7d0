"""Core dumps: events and sentences measured on libvirt 9.0."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCoreDumpFormat as Format
from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.client import Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.saving import dump as dumping
from pytest_embedvm.driver.saving.dump import Wish, dump
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import (
    InvalidArgument,
    OperationFailed,
    OperationInvalid,
    OperationUnsupported,
    SystemFailure,
)
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, state

PAUSED_AND_RESUMED = ["SUSPENDED/PAUSED", "RESUMED/UNPAUSED"]


@pytest.mark.parametrize(
    ("wish", "magic"),
    [
        (Wish(), b"QEVM"),
        (Wish(live=True), b"QEVM"),
        (Wish(memory_only=True), b"\x7fELF"),
        (Wish(memory_only=True, live=True), b"\x7fELF"),
        (Wish(memory_only=True, format=Format.KDUMP_ZLIB), b"makedumpfile"),
    ],
)
async def test_the_guest_runs_on(embed: OpenDriver, tmp_path: Path, wish: Wish, magic: bytes) -> None:
    core = tmp_path / "core"
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        await events.so_far(machine)
        await dump(machine, core, wish)
        assert core.read_bytes().startswith(magic)
        assert core.stat().st_mode & 0o777 == 0o600
        assert await events.so_far(machine) == PAUSED_AND_RESUMED
        assert state(machine) == ("RUNNING", "UNPAUSED")
        await tiny.tell(tmp_path / "guest", b"x")


async def test_what_becomes_of_the_guest(embed: OpenDriver, tmp_path: Path) -> None:
    core = tmp_path / "core"
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"), DomainCreateFlags.START_PAUSED)
        await events.so_far(machine)
        await dump(machine, core, Wish(memory_only=True))
        assert await events.so_far(machine) == []
        assert state(machine) == ("PAUSED", "USER")
        await machine.resume()
        await dump(machine, core, Wish(memory_only=True, reset=True))
        assert "REBOOT" in await events.so_far(machine)
        assert state(machine)[0] == "RUNNING"
        await dump(machine, core, Wish(memory_only=True, crash=True))
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "STOPPED/CRASHED"]
        assert driver.machines() == []


@pytest.mark.parametrize(
    ("wish", "error", "sentence"),
    [
        (
            Wish(format=Format.KDUMP_ZLIB),
            OperationUnsupported,
            "kdump-compressed format is only supported with memory-only dump",
        ),
        (
            Wish(format=Format.KDUMP_LZO, memory_only=True),
            InvalidArgument,
            "unsupported dumpformat 'kdump-none' for this QEMU binary",
        ),
        (Wish(format=Format.WIN_DMP, memory_only=True), OperationFailed, "memory-only dump failed: "),
    ],
)
async def test_what_fails_leaves_it_running_and_no_file(
    embed: OpenDriver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    wish: Wish,
    error: type[Exception],
    sentence: str,
) -> None:
    monkeypatch.setitem(dumping.FORMATS, Format.KDUMP_LZO, "kdump-none")  # some QEMUs have lzo
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        with pytest.raises(error, match=sentence):
            await dump(machine, tmp_path / "core", wish)
        assert state(machine)[0] == "RUNNING"
        assert not (tmp_path / "core").exists()
        with pytest.raises(SystemFailure, match="Failed to create file '/nonexistent/x': No such file or directory"):
            await dump(machine, Path("/nonexistent/x"), Wish())
        await tiny.tell(tmp_path / "guest", b"x")


async def test_compressed(tmp_path: Path) -> None:
    driver = await Driver.open(make_uri(tmp_path / "root"), Options(config={"dump_image_format": "gzip"}))
    try:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        await dump(machine, tmp_path / "core", Wish())
        assert (tmp_path / "core").read_bytes().startswith(b"\x1f\x8b")
    finally:
        await driver.close()


async def test_one_that_does_not_run(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path / "guest"))
        with pytest.raises(OperationInvalid, match="domain is not running"):
            await dump(machine, tmp_path / "core", Wish())
