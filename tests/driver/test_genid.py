"""A guest that goes on from where it was once is told so by its generation's id."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.saving.restore import restore
from pytest_embedvm.driver.saving.save import save
from pytest_embedvm.driver.templates.cloning import clone, reset
from tests.driver.conftest import OpenDriver
from tests.driver.templates.conftest import made, tiny_xml

GENERATION = "43dc0cf8-809b-4adb-9bea-a9abb5f3d90e"


def with_genid(xml: str) -> str:
    return xml.replace("<memory", f"<genid>{GENERATION}</genid><memory", 1)


async def generation(machine: Machine) -> str:
    """What QEMU has, which is what the XML says."""
    async with machine.changing("a question") as qemu:
        assert qemu is not None
        answer = await qemu.monitor.execute("query-vm-generation-id")
    assert isinstance(answer, dict)
    found = str(answer["guid"])
    assert f"<genid>{found}</genid>" in machine.xml()
    return found


async def test_each_going_on_has_another(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        first = await driver.create_xml(with_genid(tiny_xml(tmp_path)))
        assert await generation(first) == GENERATION
        await save(first, tmp_path / "saved")
        restored = await restore(driver, None, tmp_path / "saved")
        there = [GENERATION, await generation(restored)]
        await restored.destroy()
        template = await made(driver, tmp_path / "template", with_genid(tiny_xml(tmp_path, number=2)))
        for name in "cd":
            machine = await clone(driver, None, template, name)
            there.append(await generation(machine))
        there.append(await generation(await reset(driver, None, machine.uuid)))
        assert len(set(there)) == 5
