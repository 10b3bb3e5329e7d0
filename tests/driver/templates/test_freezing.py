"""Templates in the making: what goes where, and what is left when nothing comes of it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags, DomainModificationImpact
from pytest_embedvm.driver.hotplug.attach import attach
from pytest_embedvm.driver.templates import freezing
from pytest_embedvm.driver.templates.cloning import clone
from pytest_embedvm.driver.templates.freezing import begin, freeze, obstacles
from pytest_embedvm.driver.templates.template import Template
from pytest_embedvm.errors import (
    ConfigUnsupported,
    InternalError,
    NoDomain,
    OperationFailed,
    OperationInvalid,
    SystemFailure,
)
from tests.driver.conftest import Events, OpenDriver, state
from tests.driver.templates.conftest import DISK, made, tiny_xml, with_disk

PAUSED = DomainCreateFlags.START_PAUSED
#: Room for what is plugged in.
BUS = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 7))
SHARED_MEMORY = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


def modes(folder: Path) -> set[int]:
    """The permissions of all that is in FOLDER, directories left out."""
    return {path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}


async def test_what_a_template_consists_of(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await begin(driver, None, with_disk(tmp_path / "guest"), tmp_path / "template")
        assert await events.so_far(machine) == ["RESUMED/UNPAUSED", "STARTED/BOOTED"]
        assert f"{tmp_path}/template/disks/vda.qcow2" in machine.xml()
        template = await freeze(machine, tmp_path / "template")
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "STOPPED/SAVED"]
        with pytest.raises(NoDomain):
            driver.by_name("a")
    assert {path.name for path in template.folder.iterdir()} == {"domain.xml", "ram", "state", "disks"}
    assert template.ram.stat().st_size == 32 << 20
    assert template.folder.stat().st_mode & 0o777 == 0o700
    assert modes(template.folder) == {0o600}
    assert (tmp_path / "guest/disk.raw").read_bytes()[:9] == b"as it was"


async def test_a_disk_that_was_plugged_in(embed: OpenDriver, tmp_path: Path) -> None:
    """It stays where it is, and is not written any more; one that was taken out is none of the template's."""
    async with embed() as driver:
        machine = await begin(driver, None, with_disk(tmp_path / "guest", BUS), tmp_path / "template")
        (tmp_path / "more.raw").write_bytes(bytes(1 << 20))
        more = DISK.format(tmp_path / "more.raw").replace("vda", "vdb")
        await attach(machine, more, DomainModificationImpact.LIVE)
        template = await freeze(machine, tmp_path / "template")
        cloned = await clone(driver, None, template, "c")
        for target in "ab":
            assert f"clones/{cloned.uuid}/vd{target}.qcow2" in cloned.xml()
        assert f"{tmp_path}/more.raw" in cloned.xml()


async def test_one_that_was_paused(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "template", PAUSED)
        assert state(machine) == ("PAUSED", "USER")
        await freeze(machine, tmp_path / "template")
        cloned = await clone(driver, None, Template(tmp_path / "template"), "c")
        assert state(cloned) == ("RUNNING", "RESTORED")


async def test_a_folder_that_is_there_or_cannot_be_made(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        await made(driver, tmp_path / "template", tiny_xml(tmp_path / "guest"))
        with pytest.raises(SystemFailure, match=r"Failed to create file '.*/template/ram': File exists"):
            await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "template")
        (tmp_path / "file").touch()
        with pytest.raises(SystemFailure, match=r"Failed to create file '.*/file/below': Not a directory"):
            await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "file/below")
        assert driver.machines() == []


async def test_who_may_become_a_template(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        xml = tiny_xml(tmp_path / "guest")
        ordinary = await driver.create_xml(xml)
        with pytest.raises(OperationInvalid, match=r"domain 'a' was not started to be the template in '.*/other'"):
            await freeze(ordinary, tmp_path / "other")
        with pytest.raises(OperationInvalid, match="domain 'a' is already active"):
            await begin(driver, None, xml, tmp_path / "taken")
        await ordinary.destroy()
        machine = await begin(driver, None, xml, tmp_path / "template")
        with pytest.raises(OperationInvalid, match=r"was not started to be the template in '.*/other'"):
            await freeze(machine, tmp_path / "other")
        await freeze(machine, tmp_path / "template")
        with pytest.raises(NoDomain):
            await freeze(machine, tmp_path / "template")


async def test_freezing_twice_at_once(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "template")
        twice = (freeze(machine, tmp_path / "template") for _ in range(2))
        outcomes = await asyncio.gather(*twice, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Template, NoDomain]
        await clone(driver, None, Template(tmp_path / "template"), "c")


async def test_what_cannot_be_cloned_is_not_started(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        xml = tiny_xml(tmp_path / "guest", devices="<graphics type='vnc' port='5999'/>")
        assert await obstacles(driver, xml) == ["VNC port 5999 is one thing of the host's"]
        with pytest.raises(ConfigUnsupported, match="domain 'a' cannot be cloned: VNC port 5999"):
            await begin(driver, None, xml, tmp_path / "template")
        assert driver.machines() == []
        assert not (tmp_path / "template").exists()
        assert await obstacles(driver, tiny_xml(tmp_path / "guest")) == []


async def test_it_cannot_be_written(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest goes on, and can be frozen once nothing is in the way."""
    async with embed() as driver:
        events = Events(driver)
        machine = await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "template")
        await events.so_far(machine)
        with monkeypatch.context() as patch:
            patch.setattr(freezing, "write_atomically", _fail)
            with pytest.raises(SystemFailure, match=r"Failed to create file '.*/domain.xml': No space left on device"):
                await freeze(machine, tmp_path / "template")
        assert await events.so_far(machine) == ["SUSPENDED/PAUSED", "RESUMED/UNPAUSED"]
        assert {path.name for path in (tmp_path / "template").iterdir()} == {"ram"}
        with pytest.raises(OperationFailed, match="is no template"):
            await clone(driver, None, Template(tmp_path / "template"), "c")
        await freeze(machine, tmp_path / "template")
        await clone(driver, None, Template(tmp_path / "template"), "c")


def _fail(path: Path, *_: object, **__: object) -> None:
    raise OSError(28, os.strerror(28), str(path))


async def test_qemu_ends_meanwhile(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await begin(driver, None, tiny_xml(tmp_path / "guest"), tmp_path / "template")
        assert machine.running is not None
        machine.running.process.send_signal(signal.SIGSTOP)
        freezing_it = asyncio.create_task(freeze(machine, tmp_path / "template"))
        await asyncio.sleep(0)
        machine.running.process.send_signal(signal.SIGKILL)
        with pytest.raises((OperationFailed, InternalError)):
            await freezing_it
        assert not (tmp_path / "template/state").exists()
        assert not (tmp_path / "template/domain.xml").exists()


async def test_memory_of_its_own(embed: OpenDriver, tmp_path: Path) -> None:
    """What the domain says of its memory is no obstacle: a clone's is the template's."""
    async with embed() as driver:
        xml = tiny_xml(tmp_path / "guest", extra=SHARED_MEMORY)
        template = await made(driver, tmp_path / "template", xml)
        await clone(driver, None, template, "c")


async def test_a_name_that_json_spells(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / 'tëmpl "a", b\\c', with_disk(tmp_path / "guest"))
        await clone(driver, None, template, "c")
