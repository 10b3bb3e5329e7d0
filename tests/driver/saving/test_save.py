"""Guests that go into files and come out again: every row of libvirt's events, measured on libvirt 9.0."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from pathlib import Path

import pytest

from pytest_embedvm.constants import ConnectListAllDomainsFlags as List
from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.constants import DomainUndefineFlagsValues as Undefine
from pytest_embedvm.constants import DomainXMLFlags as Xml
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.migration import control as migration_control
from pytest_embedvm.driver.migration.incoming import Incoming
from pytest_embedvm.driver.migration.outgoing import Plan, migrate
from pytest_embedvm.driver.saving import compression
from pytest_embedvm.driver.saving import image as save_image
from pytest_embedvm.driver.saving import restore as restoring
from pytest_embedvm.driver.saving import save as saving
from pytest_embedvm.driver.saving.restore import restore
from pytest_embedvm.driver.saving.save import managed_save, save
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import (
    ConfigUnsupported,
    InternalError,
    NoDomain,
    OperationAborted,
    OperationFailed,
    OperationInvalid,
    SystemFailure,
)
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, state

PAUSED = DomainCreateFlags.START_PAUSED


async def started(driver: Driver, tmp_path: Path, flags: int = 0) -> tuple[Machine, Events]:
    events = Events(driver)
    machine = await driver.create_xml(tiny.xml(tmp_path / "guest"), flags)
    await events.so_far(machine)
    return machine, events


async def defined(driver: Driver, tmp_path: Path) -> tuple[Machine, Events]:
    events = Events(driver)
    machine = await driver.define_xml(tiny.xml(tmp_path / "guest"))
    await machine.create()
    await events.so_far(machine)
    return machine, events


async def test_save_and_restore(embed: OpenDriver, tmp_path: Path) -> None:
    image = tmp_path / "image"
    async with embed() as driver:
        machine, events = await started(driver, tmp_path)
        text = machine.xml(Xml.MIGRATABLE)
        await save(machine, image)
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "STOPPED/SAVED"]
        assert driver.machines() == []
        assert image.stat().st_mode & 0o777 == 0o600
        assert restoring.text(image, secure=True) == text
        again = await restore(driver, None, image)
        assert await events.so_far(again) == ["STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT"]
        assert state(again) == ("RUNNING", "RESTORED")
        assert (again.uuid, again.id, again.persistent) == (machine.uuid, 2, False)
        await tiny.tell(tmp_path / "guest", b"x")
        with pytest.raises(OperationInvalid, match="domain 'a' is already active"):
            await restore(driver, None, image)
    assert image.exists()


async def test_in_another_root(embed: OpenDriver, tmp_path: Path) -> None:
    image = tmp_path / "image"
    async with embed(tmp_path / "a") as driver:
        machine, _ = await started(driver, tmp_path)
        await save(machine, image)
    async with embed(tmp_path / "b") as driver:
        await restore(driver, None, image)
        await tiny.tell(tmp_path / "guest", b"x")


async def test_a_paused_guest(embed: OpenDriver, tmp_path: Path) -> None:
    image = tmp_path / "image"
    async with embed() as driver:
        machine, events = await started(driver, tmp_path, PAUSED)
        await save(machine, image)
        assert await events.so_far(machine) == ["STOPPED/SAVED"]
        machine = await restore(driver, None, image)
        assert await events.so_far(machine) == ["STARTED/RESTORED", "SUSPENDED/RESTORED"]
        assert state(machine) == ("PAUSED", "MIGRATION")
        await save(machine, image)
        machine = await restore(driver, None, image, running=True)
        assert state(machine) == ("RUNNING", "RESTORED")
        await save(machine, image, running=False)
        assert state(await restore(driver, None, image)) == ("PAUSED", "MIGRATION")


@pytest.mark.parametrize("name", compression.FORMATS)
async def test_formats(tmp_path: Path, name: str) -> None:
    if name != "raw" and shutil.which(compression.FORMATS[name][0]) is None:
        pytest.skip(f"there is no {name}")
    image = tmp_path / "image"
    driver = await Driver.open(make_uri(tmp_path / "root"), Options(config={"save_image_format": name}))
    try:
        machine, _ = await started(driver, tmp_path)
        await save(machine, image)
        with save_image.opened(image) as found:
            assert found.header.format == name
        await restore(driver, None, image)
        await tiny.tell(tmp_path / "guest", b"x")
    finally:
        await driver.close()


async def test_a_format_that_nobody_knows(tmp_path: Path) -> None:
    driver = await Driver.open(make_uri(tmp_path / "root"), Options(config={"save_image_format": "rar"}))
    try:
        machine, _ = await started(driver, tmp_path)
        with pytest.raises(OperationFailed, match="Invalid save image format specified in configuration file: rar"):
            await save(machine, tmp_path / "image")
        assert state(machine)[0] == "RUNNING"
    finally:
        await driver.close()


async def test_a_save_that_fails_leaves_it_running(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embed() as driver:
        machine, events = await started(driver, tmp_path)
        with pytest.raises(SystemFailure, match="Failed to create file '/nonexistent/x': No such file or directory"):
            await save(machine, Path("/nonexistent/x"))
        with pytest.raises(ConfigUnsupported, match="Target domain max memory 65536 does not match source 32768"):
            await save(machine, tmp_path / "image", xml=machine.xml().replace("32768", "65536"))
        assert await events.so_far(machine) == []
        monkeypatch.setitem(compression.FORMATS, "raw2", ("false",))
        driver.config = dataclasses.replace(driver.config, save_image_format="raw2")
        with pytest.raises(OperationFailed):
            await save(machine, tmp_path / "image")
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "RESUMED/UNPAUSED"]
        assert state(machine) == ("RUNNING", "SAVE_CANCELED")
        assert not (tmp_path / "image").exists()
        await tiny.tell(tmp_path / "guest", b"x")


async def test_a_save_is_called_off(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(compression.FORMATS, "gzip", ("sleep", "60"))  # a program that takes nothing
    driver = await Driver.open(make_uri(tmp_path / "root"), Options(config={"save_image_format": "gzip"}))
    try:
        text = tiny.xml(tmp_path / "guest").replace("<memory unit='MiB'>32</memory>", "<memory unit='MiB'>512</memory>")
        machine = await driver.create_xml(text)
        task = asyncio.ensure_future(save(machine, tmp_path / "image"))
        async with asyncio.timeout(30):
            while not (await migration_control.stats(machine)).get("memory_total"):  # noqa: ASYNC110 - QEMU says no more
                await asyncio.sleep(0.05)
        await migration_control.abort(machine)
        with pytest.raises(OperationAborted, match="job 'domain save' canceled by client"):
            await task
        assert state(machine) == ("RUNNING", "SAVE_CANCELED")
        await tiny.tell(tmp_path / "guest", b"x")
        assert not (tmp_path / "image").exists()
    finally:
        await driver.close()


async def test_what_is_no_image(embed: OpenDriver, tmp_path: Path) -> None:
    image, bad = tmp_path / "image", tmp_path / "bad"
    async with embed() as driver:
        machine, _ = await started(driver, tmp_path)
        await save(machine, image)
        content = image.read_bytes()
        for changed, sentence in (
            (b"x" * 5000, "image magic is incorrect"),
            (b"LibvirtQemudSave" + content[16:], "image magic is incorrect"),
            (b"x", "failed to read qemu header"),
            (save_image.PARTIAL + content[16:], "save image is incomplete"),
            (content[:16] + b"\x63\0\0\0" + content[20:], r"image version is not supported \(99 > 1\)"),
            (content[:100], "failed to read domain XML"),
            (content[:40] + b"\0" + content[41:], "failed to read domain XML"),
        ):
            bad.write_bytes(changed)
            with pytest.raises(OperationFailed, match=sentence):
                await restore(driver, None, bad)
            with pytest.raises(OperationFailed, match=sentence):
                restoring.text(bad, secure=False)
        with pytest.raises(SystemFailure, match=r"Failed to open file '.*/none': No such file or directory"):
            await restore(driver, None, tmp_path / "none")
        bad.write_bytes(content[: 64 * 1024 + 1000])
        with pytest.raises(InternalError, match="guest unexpectedly quit"):
            await restore(driver, None, bad)
        assert driver.machines() == []
        await restore(driver, None, image)


async def test_another_xml(embed: OpenDriver, tmp_path: Path) -> None:
    image, there = tmp_path / "image", tmp_path / "there"
    there.mkdir()
    async with embed() as driver:
        machine, _ = await started(driver, tmp_path)
        await save(machine, image)
        text = restoring.text(image, secure=True)
        for wrong in (restore(driver, None, image, xml=text.replace("32768", "65536")),):
            with pytest.raises(ConfigUnsupported, match="Target domain max memory 65536 does not match source 32768"):
                await wrong
        other = text.replace(str(tmp_path / "guest" / "com1"), str(there / "com1"))
        await (await restore(driver, None, image, xml=other)).destroy()
        await restoring.redefine(driver, image, other, running=None)
        assert restoring.text(image, secure=True) == other
        with pytest.raises(OperationFailed, match="new xml too large to fit in file"):
            await restoring.redefine(
                driver, image, other.replace("<os>", f"<title>{'x' * 70000}</title><os>"), running=None
            )
        await restore(driver, None, image)
        await tiny.tell(there, b"x")


async def test_managed_save(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, events = await defined(driver, tmp_path)
        assert not saving.has_managed(machine)
        with pytest.raises(OperationInvalid, match="domain does not have managed save image"):
            saving.require_managed(machine)
        with pytest.raises(
            SystemFailure, match=r"Failed to remove managed save file '.*/lib/qemu/save/a.save': No such"
        ):
            await saving.remove_managed(machine)
        await managed_save(machine)
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "STOPPED/SAVED"]
        assert state(machine) == ("SHUTOFF", "SAVED")
        assert saving.managed_path(machine) == driver.root.path / "lib/qemu/save/a.save"
        assert driver.machines(List.MANAGEDSAVE) == [machine]
        assert driver.machines(List.NO_MANAGEDSAVE) == []
        with pytest.raises(OperationInvalid, match="Refusing to undefine while domain managed save image exists"):
            await machine.undefine()
        with pytest.raises(OperationInvalid, match="domain with a managed saved state can't be renamed"):
            await machine.rename("b")
        await machine.create()
        assert await events.so_far(machine) == ["STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT"]
        assert state(machine) == ("RUNNING", "RESTORED")
        assert not saving.has_managed(machine)
        await tiny.tell(tmp_path / "guest", b"x")
        await managed_save(machine, running=False)
        await machine.create()
        assert state(machine) == ("PAUSED", "MIGRATION")


async def test_a_managed_image_is_not_needed(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, events = await defined(driver, tmp_path)
        await managed_save(machine)
        await events.so_far(machine)
        await machine.create(DomainCreateFlags.START_FORCE_BOOT)
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED", "STARTED/BOOTED"]
        assert not saving.has_managed(machine)
        await managed_save(machine)
        path = saving.managed_path(machine)
        path.write_bytes(save_image.PARTIAL + path.read_bytes()[16:])  # whoever wrote it was killed
        await events.so_far(machine)
        await machine.create()
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED", "STARTED/BOOTED"]
        await managed_save(machine)
        await saving.remove_managed(machine)
        await machine.create(PAUSED)
        assert state(machine) == ("PAUSED", "USER")
        await managed_save(machine)
        await machine.undefine(Undefine.MANAGED_SAVE)
        assert not path.exists()


async def test_a_managed_image_that_cannot_be_loaded_stays(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, _ = await defined(driver, tmp_path)
        await managed_save(machine)
        path = saving.managed_path(machine)
        path.write_bytes(path.read_bytes()[:70_000])
        with pytest.raises(InternalError):
            await machine.create()
        assert saving.has_managed(machine)
        assert not machine.active


async def test_it_outlives_the_connection(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, _ = await defined(driver, tmp_path)
        await managed_save(machine)
    async with embed() as driver:
        await driver.by_name("a").create()
        await tiny.tell(tmp_path / "guest", b"x")


async def test_who_does_not_run(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, _ = await started(driver, tmp_path)
        with pytest.raises(OperationInvalid, match="cannot do managed save for transient domain"):
            await managed_save(machine)
        await machine.destroy()
        with pytest.raises(NoDomain):
            await save(machine, tmp_path / "image")
        machine = await driver.define_xml(tiny.xml(tmp_path / "guest"))
        for attempt in (save(machine, tmp_path / "image"), managed_save(machine)):
            with pytest.raises(OperationInvalid, match="domain is not running"):
                await attempt


async def test_who_restores_it_owns_it(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, _ = await defined(driver, tmp_path)
        await managed_save(machine)
        client = Client()
        await machine.create(DomainCreateFlags.START_AUTODESTROY, client)
        assert machine.owner is client


async def test_a_block_job_is_in_the_way(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, _ = await started(driver, tmp_path)
        machine.running.jobs["job"] = object()
        with pytest.raises(OperationInvalid, match="domain has active block job"):
            await save(machine, tmp_path / "image")
        with pytest.raises(OperationInvalid, match="domain has active block job"):
            await migrate(machine, Incoming(driver), Plan(live=True))
        machine.running.jobs.clear()
