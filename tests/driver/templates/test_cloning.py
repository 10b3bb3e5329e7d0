"""Clones: machines of their own, which leave nothing behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.saving.restore import restore
from pytest_embedvm.driver.saving.save import save
from pytest_embedvm.driver.templates import cloning
from pytest_embedvm.driver.templates.belongings import PLACE
from pytest_embedvm.driver.templates.cloning import clone, reset, template_from
from pytest_embedvm.driver.templates.freezing import freeze
from pytest_embedvm.driver.templates.template import Template
from pytest_embedvm.errors import InternalError, NoDomain, OperationFailed, OperationInvalid, SystemFailure
from tests.driver.conftest import Events, OpenDriver, exists, state
from tests.driver.templates.conftest import CARD, made, tiny_xml, with_disk

PAUSED, AUTODESTROY = DomainCreateFlags.START_PAUSED, DomainCreateFlags.START_AUTODESTROY


def disks(driver: Driver) -> set[str]:
    """Whose disks are in the root."""
    return {path.name for path in driver.root.path.joinpath(*PLACE).glob("*")}


async def test_it_is_a_machine_of_its_own(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        first = await clone(driver, None, template, "c")
        assert (await events.so_far(first))[-2:] == ["STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT"]
        assert state(first) == ("RUNNING", "RESTORED")
        second = await clone(driver, None, template, "d", PAUSED)
        assert await events.so_far(second) == ["STARTED/RESTORED", "SUSPENDED/RESTORED"]
        assert state(second) == ("PAUSED", "MIGRATION")
        await second.resume()
        assert len({first.uuid, second.uuid, uuid.UUID("11111111-1111-1111-1111-000000000001")}) == 3
        for machine in first, second:
            assert driver.by_uuid(machine.uuid) is driver.by_name(machine.name) is machine
            assert "52:54:00:00:00:01" not in machine.xml()
            assert f"clones/{machine.uuid}/vda.qcow2" in machine.xml()
            assert not machine.persistent
        assert disks(driver) == {str(first.uuid), str(second.uuid)}
        await first.destroy()
        assert disks(driver) == {str(second.uuid)}
    assert not list((tmp_path / "root/lib/qemu/clones").iterdir())


async def test_names_that_are_taken(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        await clone(driver, None, template, "c")
        with pytest.raises(OperationFailed, match="domain 'c' already exists with uuid"):
            await clone(driver, None, template, "c")
        await driver.define_xml(tiny_xml(tmp_path / "guest", "known", number=2))
        with pytest.raises(OperationFailed, match="domain 'known' already exists with uuid"):
            await clone(driver, None, template, "known")
        assert len(driver.machines()) == 2
        assert len(disks(driver)) == 1


@pytest.mark.parametrize("missing", ["domain.xml", "ram", "state", "disks/vda.qcow2"])
async def test_half_a_template(embed: OpenDriver, tmp_path: Path, missing: str) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        (template.folder / missing).unlink()
        with pytest.raises(OperationFailed, match=f"'{template.folder}' is no template: .*{missing}"):
            await clone(driver, None, template, "c")
        assert driver.machines() == []
        assert disks(driver) == set()


@pytest.mark.parametrize(
    ("damaged", "content", "said"),
    [
        ("domain.xml", b"<domain", "is no template: "),
        ("domain.xml", b"\xff\xfe", "is no template: "),
        ("state", b"", "load of migration failed|guest unexpectedly quit"),
        ("state", b"not what QEMU writes", "load of migration failed|guest unexpectedly quit"),
        ("ram", b"", "is no template: '.*/ram' has 0 bytes"),
        ("disks/vda.qcow2", b"no image", "vda.qcow2"),
    ],
)
async def test_a_damaged_template(embed: OpenDriver, tmp_path: Path, damaged: str, content: bytes, said: str) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        (template.folder / damaged).write_bytes(content)
        with pytest.raises((OperationFailed, InternalError, SystemFailure), match=said):
            await clone(driver, None, template, "c")
        assert driver.machines() == []
        assert disks(driver) == set()


async def test_a_state_that_was_cut_off(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", tiny_xml(tmp_path / "guest"))
        os.truncate(template.state, template.state.stat().st_size // 2)
        with pytest.raises(InternalError, match=r"guest unexpectedly quit|load of migration failed"):
            await clone(driver, None, template, "c")
        assert driver.machines() == []


async def test_no_template_at_all(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        with pytest.raises(OperationFailed, match=r"is no template: .*No such file or directory"):
            await clone(driver, None, Template(tmp_path / "none"), "c")


async def test_it_was_moved(embed: OpenDriver, tmp_path: Path) -> None:
    """A template may be made in one place, and published in another; a clone's disks stay readable."""
    async with embed() as driver:
        made_at = await made(driver, tmp_path / "half", with_disk(tmp_path / "guest"))
        made_at.folder.rename(tmp_path / "whole")
        await clone(driver, None, Template(tmp_path / "whole"), "c")


async def test_in_another_root(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "one") as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
    async with embed(tmp_path / "two") as driver:
        machine = await clone(driver, None, template, "c")
        assert f"{tmp_path}/two/lib/qemu/clones/{machine.uuid}/vda.qcow2" in machine.xml()


async def test_it_ends_with_its_connection(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", tiny_xml(tmp_path / "guest"))
        client = Client()
        joined = await Driver.open(driver.uri)
        machine = await clone(driver, client, template, "c", AUTODESTROY)
        again = await reset(driver, client, machine.uuid)
        assert again.autodestroy
        await joined.close(client)
        with pytest.raises(NoDomain):
            driver.by_name("c")


async def test_reset(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        machine = await clone(driver, None, template, "c")
        xml, pid = machine.xml(), process(machine)
        await events.so_far(machine)
        again = await reset(driver, None, machine.uuid)
        assert await events.so_far(again) == [
            *("SHUTDOWN/HOST", "STOPPED/DESTROYED", "STARTED/RESTORED", "RESUMED/FROM_SNAPSHOT")
        ]
        assert not exists(pid)
        assert (again.name, again.uuid) == ("c", machine.uuid)
        assert macs(again.xml()) == macs(xml)
        assert disks(driver) == {str(machine.uuid)}
        # One that has ended is started again, also a second time.
        await again.destroy()
        assert disks(driver) == set()
        third = await reset(driver, None, machine.uuid, PAUSED)
        assert state(third) == ("PAUSED", "MIGRATION")
        assert driver.machines() == [third]


async def test_resetting_one_that_became_persistent(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        machine = await clone(driver, None, template, "c")
        await driver.define_xml(machine.xml())
        again = await reset(driver, None, machine.uuid)
        assert again is machine
        assert state(again) == ("RUNNING", "RESTORED")
        await again.destroy()
        assert disks(driver) == {str(machine.uuid)}
        await again.create()
        with pytest.raises(OperationInvalid, match="is no clone"):  # it booted
            await reset(driver, None, machine.uuid)
        await again.destroy()
        await again.undefine()


async def test_one_that_is_kept_running(embed: OpenDriver, tmp_path: Path) -> None:
    """Who opens the root next has it, and its disks; it is a clone no more."""
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        uri = driver.uri
    before = await Driver.open(uri)
    machine = await clone(before, Client(Options(keep_running=True)), template, "c")
    pid = process(machine)
    await before.close()
    assert exists(pid)
    async with embed() as driver:
        found = driver.by_name("c")
        assert state(found)[0] == "RUNNING"
        assert disks(driver) == {str(found.uuid)}
        with pytest.raises(OperationInvalid, match="is no clone"):
            await reset(driver, None, found.uuid)
        await found.destroy()
        assert disks(driver) == set()


async def test_resetting_what_is_no_clone(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny_xml(tmp_path / "guest"))
        with pytest.raises(OperationInvalid, match="domain 'a' is no clone of a template"):
            await reset(driver, None, machine.uuid)
        assert state(machine) == ("RUNNING", "BOOTED")
        with pytest.raises(NoDomain):
            await reset(driver, None, uuid.uuid4())


async def test_reset_without_its_template(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        machine = await clone(driver, None, template, "c")
        shutil.rmtree(template.folder)
        with pytest.raises(OperationFailed, match="is no template"):
            await reset(driver, None, machine.uuid)
        assert state(machine) == ("RUNNING", "RESTORED")  # it is not ended for nothing


async def test_a_template_from_a_template(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        base = await made(driver, tmp_path / "base", with_disk(tmp_path / "guest"))
        machine = await template_from(driver, None, base, tmp_path / "second", name="s")
        assert f"{tmp_path}/second/disks/vda.qcow2" in machine.xml()
        second = await freeze(machine, tmp_path / "second")
        assert second.ram.stat().st_size == base.ram.stat().st_size
        assert second.ram.stat().st_blocks <= base.ram.stat().st_blocks + 64
        cloned = await clone(driver, None, second, "c")
        assert state(cloned) == ("RUNNING", "RESTORED")
        with pytest.raises(SystemFailure, match=r"Failed to create file '.*/second/ram': File exists"):
            await template_from(driver, None, base, tmp_path / "second", name="t")
        with pytest.raises(OperationFailed, match="is no template"):
            await template_from(driver, None, Template(tmp_path / "none"), tmp_path / "third", name="t")
        assert driver.machines() == [cloned]


async def test_saved_and_restored(embed: OpenDriver, tmp_path: Path) -> None:
    """Its disks are there as long as somebody may go on with them."""
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        machine = await clone(driver, None, template, "c")
        await save(machine, tmp_path / "image")
        assert disks(driver) == {str(machine.uuid)}
        other = await clone(driver, None, template, "c")
        await other.destroy()
    async with embed() as driver:  # as somebody may later
        restored = await restore(driver, None, tmp_path / "image")
        assert restored.uuid == machine.uuid
        with pytest.raises(OperationInvalid, match="is no clone"):
            await reset(driver, None, restored.uuid)
        await restored.destroy()
        assert disks(driver) == set()


def interrupted(monkeypatch: pytest.MonkeyPatch, by: Callable[[Machine, Running], None]) -> None:
    """Have BY happen to each clone that is about to load its guest."""

    async def load(machine: Machine, running: Running, _: Template) -> None:
        by(machine, running)
        await running.process.wait()

    monkeypatch.setattr(cloning, "_load", load)


async def test_its_qemu_is_killed_while_it_is_started(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        with monkeypatch.context() as patch:
            interrupted(patch, lambda _, running: running.process.send_signal(signal.SIGKILL))
            with pytest.raises((InternalError, OperationFailed)):
                await clone(driver, None, template, "c")
        assert driver.machines() == []
        assert disks(driver) == set()
        await clone(driver, None, template, "c")


async def test_nobody_waits_for_it_any_more(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        with monkeypatch.context() as patch:
            interrupted(patch, lambda *_: starting.cancel())
            starting = asyncio.create_task(clone(driver, None, template, "c"))
            with pytest.raises(asyncio.CancelledError):
                await starting
        assert driver.machines() == []
        assert disks(driver) == set()


KILLED = """
import asyncio, sys
from pathlib import Path
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.templates.cloning import clone
from pytest_embedvm.driver.templates.template import Template
async def main():
    driver = await Driver.open(sys.argv[1])
    machine = await clone(driver, None, Template(Path(sys.argv[2])), "c")
    print(machine.running.process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""


async def test_the_process_is_killed(embed: OpenDriver, tmp_path: Path) -> None:
    """QEMU goes with it; the template is as it was, and the root can be used."""
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", with_disk(tmp_path / "guest"))
        uri = driver.uri
    before = snapshot(template.folder)
    words = [sys.executable, "-c", KILLED, uri, str(template.folder)]
    process_ = await asyncio.create_subprocess_exec(*words, stdout=subprocess.PIPE)
    assert process_.stdout is not None
    pid = int(await process_.stdout.readline())
    descriptor = os.pidfd_open(pid)
    process_.kill()
    await process_.wait()
    gone = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, gone.set)
    async with asyncio.timeout(30):
        await gone.wait()
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)
    assert snapshot(template.folder) == before
    async with embed() as driver:
        assert disks(driver) == set()
        await clone(driver, None, template, "c")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


def process(machine: Machine) -> int:
    assert machine.running is not None
    return machine.running.process.pid


def macs(xml: str) -> list[str]:
    return [line for line in xml.splitlines() if "<mac " in line]


async def test_eight_at_once(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        template = await made(driver, tmp_path / "template", tiny_xml(tmp_path / "guest", devices=CARD * 2))
        machines = await asyncio.gather(*(clone(driver, None, template, f"c{n}") for n in range(8)))
        assert len({machine.uuid for machine in machines}) == 8
        assert len({mac for machine in machines for mac in macs(machine.xml())}) == 16
