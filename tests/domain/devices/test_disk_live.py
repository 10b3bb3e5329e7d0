"""What real QEMU makes of disks."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_embedvm.domain import argv
from pytest_embedvm.qemu.monitor import Monitor
from tests.domain.devices.asking import completed
from tests.domain.test_golden_live import HostBelow, running
from tests.fakes.host import EMULATOR

pytestmark = pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")

T = TypeVar("T")


def ask(root: Path, devices: str, question: Callable[[Monitor], Awaitable[T]], machine: str = "q35") -> T:
    """The answer of a QEMU that runs DEVICES."""
    host = HostBelow(root)
    launch = argv.launch(completed(devices, machine, host), host)

    async def run() -> T:
        async with running(launch, root / "qemu.log") as (monitor, _):
            return await question(monitor)

    return asyncio.run(run())


async def blocks(monitor: Monitor) -> dict[str, Any]:
    """query-block by the device's id."""
    found = await monitor.execute("query-block")
    return {block["qdev"].removeprefix("/machine/peripheral/").partition("/")[0]: block for block in found}


async def write(monitor: Monitor) -> str:
    """Write 64 KiB to the first virtio disk, as its guest would, and return what QEMU says to that."""
    command = 'qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write -P 0xaa 0 64k"'
    return str(await monitor.execute("human-monitor-command", {"command-line": command}))


def image(path: Path, *words: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", *words, path, "1M"], check=True)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_disk_is_its_image_with_its_cache_and_its_rights(tmp_path: Path) -> None:
    raw, qcow2 = image(tmp_path / "raw, 1"), image(tmp_path / "two", "-f", "qcow2")
    found = ask(
        tmp_path,
        f"<disk><driver cache='unsafe'/><source file='{raw}'/><target dev='vda'/><readonly/></disk>"
        f"<disk><driver type='qcow2' cache='writethrough' detect_zeroes='on'/><source file='{qcow2}'/>"
        "<target dev='sdb' bus='sata'/></disk>",
        blocks,
    )
    first, second = (found[name]["inserted"] for name in ("virtio-disk0", "sata0-0-1"))
    assert (first["file"], first["ro"], first["drv"]) == (str(raw), True, "raw")
    assert first["cache"] == {"writeback": True, "direct": False, "no-flush": True}
    assert (second["file"], second["ro"], second["drv"]) == (str(qcow2), False, "qcow2")
    assert (second["cache"]["writeback"], second["detect_zeroes"]) == (False, "on")
    assert (first["node-name"], second["node-name"]) == ("libvirt-2-format", "libvirt-1-format")


def test_floppies_and_cd_roms_are_full_empty_and_protected(tmp_path: Path) -> None:
    medium = image(tmp_path / "medium")
    found = ask(
        tmp_path,
        f"<disk device='cdrom'><source file='{medium}'/><target dev='hda'/></disk>"
        "<disk device='cdrom'><target dev='hdc'/></disk>"
        f"<disk device='floppy'><source file='{medium}'/><target dev='fda'/><readonly/></disk>"
        "<disk device='floppy'><target dev='fdb'/></disk>",
        blocks,
        "pc",
    )
    assert {name: block["removable"] for name, block in found.items()} == dict.fromkeys(
        ("ide0-0-0", "ide0-1-0", "fdc0-0-0", "fdc0-0-1"), True
    )
    assert [name for name, block in found.items() if "inserted" in block] == ["ide0-0-0", "fdc0-0-0"]
    assert all(found[name]["inserted"]["ro"] for name in ("ide0-0-0", "fdc0-0-0"))


@pytest.mark.parametrize("end", ["", "<backingStore/>"])
def test_what_is_written_goes_to_the_overlay_and_not_to_its_base(tmp_path: Path, end: str) -> None:
    base = image(tmp_path / "base")
    base.write_bytes(b"b" * (1 << 20))
    overlay = image(tmp_path / "overlay", "-f", "qcow2", "-F", "raw", "-b", str(base))
    before = digest(base), digest(overlay)
    xml = (
        f"<disk><driver type='qcow2'/><source file='{overlay}'/><backingStore type='file'><format type='raw'/>"
        f"<source file='{base}'/>{end}</backingStore><target dev='vda'/></disk>"
    )
    assert "error" not in ask(tmp_path, xml, write).lower()
    assert digest(base) == before[0]
    assert digest(overlay) != before[1]


def test_a_chain_that_is_said_to_end_ends(tmp_path: Path) -> None:
    """A header that a guest may have written does not make QEMU open a file of the host."""
    secret = image(tmp_path / "secret")
    overlay = image(tmp_path / "overlay", "-f", "qcow2", "-F", "raw", "-b", str(secret))
    xml = "<disk><driver type='qcow2'/><source file='{}'/>{}<target dev='vda'/></disk>"

    async def files(monitor: Monitor) -> set[str]:
        return {node["file"] for node in await monitor.execute("query-named-block-nodes")}

    assert str(secret) in ask(tmp_path, xml.format(overlay, ""), files)
    assert str(secret) not in ask(tmp_path, xml.format(overlay, "<backingStore/>"), files)


def test_a_read_only_disk_cannot_be_written(tmp_path: Path) -> None:
    disk = image(tmp_path / "disk")
    before = digest(disk)
    said = ask(tmp_path, f"<disk><source file='{disk}'/><target dev='vda'/><readonly/></disk>", write)
    assert "read-only" in said.lower()
    assert digest(disk) == before
