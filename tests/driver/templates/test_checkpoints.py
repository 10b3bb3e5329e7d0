"""Checkpoints: what they consist of, and when they go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.saving.save import save
from pytest_embedvm.driver.templates import belongings, checkpoints
from pytest_embedvm.driver.templates.checkpoints import checkpoint, restore
from pytest_embedvm.driver.templates.cloning import clone, reset
from pytest_embedvm.errors import InvalidArgument, NoDomain, OperationFailed, OperationInvalid, SystemFailure
from tests.driver.conftest import Events, OpenDriver, state
from tests.driver.templates.conftest import made, tiny_xml, with_disk

PAUSED, AUTODESTROY = DomainCreateFlags.START_PAUSED, DomainCreateFlags.START_AUTODESTROY


async def started(driver: Driver, tmp_path: Path, flags: int = 0, client: Client | None = None) -> Machine:
    template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
    return await clone(driver, client, template, "c", flags)


def kept(machine: Machine) -> set[str]:
    return {path.name for path in belongings.folder(machine.root, machine.uuid).glob("checkpoints/*")}


async def test_back_and_back_again(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await started(driver, tmp_path)
        await events.so_far(machine)
        await checkpoint(machine, "one")
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "RESUMED/UNPAUSED"]
        assert state(machine) == ("RUNNING", "UNPAUSED")
        xml = machine.xml()
        for _ in range(2):
            again = await restore(driver, None, machine.uuid, "one")
            assert await events.so_far(again) == [
                *("STOPPED/FROM_SNAPSHOT", "STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT")
            ]
            assert state(again) == ("RUNNING", "RESTORED")
            assert (again.name, again.uuid) == (machine.name, machine.uuid)
            assert machine_part(again.xml()) == machine_part(xml)
            assert kept(again) == {"one"}
        assert {path.name for path in belongings.folder(again.root, again.uuid).iterdir()} == {
            *("vda.qcow2", "checkpoints")
        }
        assert driver.machines() == [again]
        await reset(driver, None, machine.uuid)
        assert kept(machine) == set()
        await driver.by_uuid(machine.uuid).destroy()
        assert not belongings.folder(driver.root, machine.uuid).exists()


def machine_part(xml: str) -> list[str]:
    """What stays the same when it is started anew."""
    changing = ("<domain ", "pts", "/dev/")
    return [line for line in xml.splitlines() if not any(word in line for word in changing)]


async def test_several_and_none(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await started(driver, tmp_path)
        with pytest.raises(OperationFailed, match=r"no checkpoint 'x'; there are none$"):
            await restore(driver, None, machine.uuid, "x")
        await checkpoint(machine, "b")
        with pytest.raises(OperationFailed, match=r"no checkpoint 'x'; there is b$"):
            await restore(driver, None, machine.uuid, "x")
        for name in "a", "a", "../../..", ".":
            await checkpoint(machine, name)
        with pytest.raises(OperationFailed, match=r"no checkpoint 'x'; there are %2E, %2E.%2F..%2F.., a, b$"):
            await restore(driver, None, machine.uuid, "x")
        for call in checkpoint(machine, ""), restore(driver, None, machine.uuid, ""):
            with pytest.raises(InvalidArgument, match="a checkpoint has to have a name"):
                await call
        assert state(machine) == ("RUNNING", "UNPAUSED")
        await restore(driver, None, machine.uuid, "../../..")


async def test_one_that_is_paused(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await started(driver, tmp_path, PAUSED)
        with pytest.raises(OperationInvalid, match="domain is not running"):
            await checkpoint(machine, "one")
        assert kept(machine) == set()
        await machine.resume()
        await checkpoint(machine, "one")
        again = await restore(driver, None, machine.uuid, "one", paused=True)
        assert state(again)[0] == "PAUSED"
        await save(again, tmp_path / "image")


async def test_what_it_was_cloned_from_and_who_owns_it_are_known_on(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        client = Client()
        joined = await Driver.open(driver.uri)
        machine = await started(driver, tmp_path, AUTODESTROY, client)
        await checkpoint(machine, "one")
        again = await restore(driver, None, machine.uuid, "one")
        assert again.owner is client
        again = await reset(driver, client, machine.uuid)
        await joined.close(client)
        assert driver.machines() == []


async def test_it_has_ended(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await started(driver, tmp_path)
        await checkpoint(machine, "one")
        await machine.destroy()
        for call in restore(driver, None, machine.uuid, "one"), checkpoint(machine, "two"):
            with pytest.raises(NoDomain):
                await call


async def test_images_of_others_are_not_frozen(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        booted = await driver.create_xml(with_disk(tmp_path / "guest"))
        with pytest.raises(
            OperationInvalid, match=r"domain 'a' .* its disk 'vda' writes to '.*/disk.raw', which is not"
        ):
            await checkpoint(booted, "one")
        await booted.destroy()
        without = await driver.create_xml(tiny_xml(tmp_path / "guest"))
        await checkpoint(without, "one")
        assert state(await restore(driver, None, without.uuid, "one"))[0] == "RUNNING"


async def test_a_file_cannot_be_written(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28), str(target))

    async with embed() as driver:
        machine = await started(driver, tmp_path)
        await checkpoint(machine, "one")
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "copy_sparse", fail)
            with pytest.raises(SystemFailure, match=r"Failed to create file '.*/vda.qcow2': No space left on device"):
                await checkpoint(machine, "one")
        assert state(machine) == ("RUNNING", "UNPAUSED")
        assert kept(machine) == {"one"}
        await restore(driver, None, machine.uuid, "one")


async def test_half_a_checkpoint(embed: OpenDriver, tmp_path: Path) -> None:
    """Nothing is left of the machine that could not be started again."""
    async with embed() as driver:
        machine = await started(driver, tmp_path)
        await checkpoint(machine, "one")
        (belongings.folder(machine.root, machine.uuid) / "checkpoints/one/guest").unlink()
        with pytest.raises(SystemFailure, match=r"Failed to open file '.*/guest'"):
            await restore(driver, None, machine.uuid, "one")
        assert driver.machines() == []
        assert not belongings.folder(driver.root, machine.uuid).exists()
