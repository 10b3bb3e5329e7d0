from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.qemu import probe as module
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.capabilities import PROBED_DEVICES
from pytest_embedvm.qemu.monitor import MonitorClosed
from pytest_embedvm.qemu.probe import probe
from tests.qemu.counting import CountingBinary, open_descriptors

DEADLY = "virtio-vga-gl"


def test_one_qemu_answers_everything(tmp_path: Path) -> None:
    qemu = CountingBinary(tmp_path)
    found = asyncio.run(probe(qemu.path))
    assert qemu.starts == 1
    assert found.binary == qemu.path
    assert found.arch == "x86_64"
    assert found.version >= (7, 0, 0)
    assert "tcg" in found.accelerators
    assert found.resolve_machine("q35").cpu_max > 1
    assert found.resolve_machine("pc") == found.default_machine
    assert found.cpus["qemu64"].typename == "qemu64-x86_64-cpu"
    assert {"quit", "device_add", "blockdev-add"} <= found.commands
    assert {"SHUTDOWN", "STOP"} <= found.events
    assert found.has_property("virtio-net-pci", "mac")
    assert found.has_machine_property("q35", "smm")
    assert found.has_chardev("socket")
    assert found.has_blockdev_driver("qcow2")
    assert found.has_argument("device_add", "driver")
    assert found.has_option("smp-opts", "sockets")
    found.require_device("virtio-rng-pci")


def test_every_probed_device_that_is_there_has_its_properties() -> None:
    found = asyncio.run(probe(find_binary()))
    there = {name for name in PROBED_DEVICES if found.has_device(name)}
    assert there == set(found.device_properties)


def test_a_device_that_kills_qemu_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBED_DEVICES", ("virtio-blk-pci", DEADLY, "virtio-net-pci"))
    qemu = CountingBinary(tmp_path)
    found = asyncio.run(probe(qemu.path))
    if DEADLY in found.device_properties or not found.has_device(DEADLY):
        pytest.skip(f"this QEMU survives {DEADLY}, or has none")
    assert set(found.device_properties) == {"virtio-blk-pci", "virtio-net-pci"}
    assert qemu.starts == 3, "all at once, one by one until it dies, and the rest"


def test_a_qemu_that_dies_again_and_again_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def die(*_: object) -> frozenset[str]:
        raise MonitorClosed("killed by the test")

    monkeypatch.setattr(module, "_list", die)
    qemu = CountingBinary(tmp_path)
    with pytest.raises(InternalError, match=r"died 6 times, last of device-list-properties ide-hd$"):
        asyncio.run(probe(qemu.path))
    assert qemu.starts == 1 + module.MAX_DEADLY_DEVICES + 1


def test_a_program_that_is_no_qemu_is_quoted(tmp_path: Path) -> None:
    script = tmp_path / "qemu"
    script.write_text("#!/bin/sh\necho 'I am no emulator' >&2\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(InternalError) as caught:
        asyncio.run(probe(script))
    assert str(caught.value) == "internal error: Failed to probe QEMU binary with QMP: I am no emulator"


def test_a_missing_binary() -> None:
    with pytest.raises(SystemFailure, match=r"^Cannot check QEMU binary /nonexistent/qemu: No such file"):
        asyncio.run(probe(Path("/nonexistent/qemu")))


def test_nothing_stays_open(tmp_path: Path) -> None:
    qemu = CountingBinary(tmp_path)

    async def main() -> None:
        await probe(qemu.path)
        before = open_descriptors()
        await probe(qemu.path)
        assert open_descriptors() == before

    asyncio.run(main())
