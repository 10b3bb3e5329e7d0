"""Captures of cards: a file that is valid at any time, has an end, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.network import capture as module
from pytest_embedvm.driver.network.capture import Capture, capture
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import InvalidArgument, SystemFailure
from pytest_embedvm.logs import HOST
from pytest_embedvm.network import pcap
from tests.driver import tiny
from tests.driver.conftest import OpenDriver
from tests.pcap import read

MAC = "52:54:00:00:00:01"
CARD = f"<interface type='{{}}'><mac address='{MAC}'/>{{}}<model type='virtio'/></interface>"
PRIVATE = CARD.format("network", "<source network='default'/>")
USER = CARD.format("user", "")
FRAMES = [bytes((n,)) * (60 + n) for n in range(20)]


async def test_it_is_valid_while_it_grows(tmp_path: Path) -> None:
    made = Capture("net0", tmp_path / "a.pcap", 1_000_000, HOST)
    await made.flush()
    assert read(made.path) == []
    for count, frame in enumerate(FRAMES, start=1):
        made.see([frame])
        await made.flush()
        assert read(made.path) == FRAMES[:count]
    assert made.path.stat().st_mode & 0o777 == 0o600
    assert made.summary == "a.pcap: 20 frames"
    await made.close()
    await made.close()
    made.see(FRAMES)
    assert read(made.path) == FRAMES


async def test_it_has_an_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    room = len(pcap.HEADER) + sum(16 + len(frame) for frame in FRAMES[:3]) + 17
    made = Capture("net0", tmp_path / "a.pcap", room, HOST)
    with caplog.at_level(logging.WARNING):
        made.see([*FRAMES, b"x"])
    await made.close()
    assert read(made.path) == FRAMES[:3]
    assert (made.frames, made.left_out) == (3, 18)  # not even what is short enough: no gaps
    assert made.summary == f"a.pcap: 3 frames; it was full with {room} bytes, and 18 more are not in it"
    assert caplog.text.count(f"{made.path}: it was full with {room} bytes, what comes now is not in it") == 1


async def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    made = Capture("net0", tmp_path / "a.pcap", 1_000_000, HOST)
    await made.flush()
    monkeypatch.setattr(module, "_write_all", full)
    made.see(FRAMES[:1])
    await made.flush()
    made.see(FRAMES[:1])
    await made.close()
    assert "it could not be written (No space left on device), and 1 more are not in it" in made.summary
    with pytest.raises(SystemFailure, match=r"Failed to create file '.*a.pcap': File exists"):
        Capture("net0", made.path, 1_000_000, HOST)


async def started(driver: object, tmp_path: Path, card: str) -> tuple[Machine, Running]:
    machine = await driver.create_xml(tiny.xml(tmp_path, devices=card))  # type: ignore[attr-defined]
    assert machine.running
    return machine, machine.running


async def test_what_a_network_sends_to_a_card(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine, running = await started(driver, tmp_path, PRIVATE)
        segment = driver.networks.by_name("default").require_segment()
        made = await capture(machine, MAC.upper(), 1_000_000)
        segment.inject([b"\xff" * 6 + frame for frame in FRAMES])
        await made.close()
        segment.inject([b"\xff" * 6 + FRAMES[0]])
        assert read(made.path) == [b"\xff" * 6 + frame for frame in FRAMES]
        assert made.path == driver.root.path / "log/qemu/capture/a/net0.pcap"
        second = await capture(machine, MAC, 1_000_000)
        assert second.path.name == "net0-2.pcap"
        assert list(machine.evidence().captures.values()) == ["net0.pcap: 20 frames", "net0-2.pcap: 0 frames"]
        [link] = segment.links.values()
        assert link.taps == [second.see]
        with pytest.raises(InvalidArgument, match="a capture of 23 bytes is too small"):
            await capture(machine, MAC, 23)
        with pytest.raises(InvalidArgument, match="has no card with MAC address x"):
            await capture(machine, "x", 1000)
        await machine.destroy()
        assert link.taps == []
        assert read(second.path) == []
        assert running.captures == [made, second]


@pytest.mark.parametrize("end", ["close", "destroy"])
async def test_a_card_of_qemus_own_network_is_mirrored(embed: OpenDriver, tmp_path: Path, end: str) -> None:
    async with embed() as driver:
        machine, running = await started(driver, tmp_path, USER)
        made = await capture(machine, MAC, 1_000_000)
        objects = await running.monitor.execute("qom-list", {"path": "/objects"})
        assert "capture-net0" in [entry["name"] for entry in objects]
        if end == "close":
            await made.close()
            objects = await running.monitor.execute("qom-list", {"path": "/objects"})
            assert "capture-net0" not in [entry["name"] for entry in objects]
            labels = [entry["label"] for entry in await running.monitor.execute("query-chardev")]
            assert "capture-net0" not in labels
        await machine.destroy()
        assert read(made.path) == []
        assert made._descriptor == -1


async def test_a_forked_child_takes_nothing_of_a_mirror(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HANG_UP_TIMEOUT_S", 0.01)
    async with embed() as driver:
        machine, running = await started(driver, tmp_path, USER)
        made = await capture(machine, MAC, 1_000_000)
        assert made.mirror
        number = made.mirror._socket.fileno()
        asyncio.get_running_loop().remove_reader(number)  # a child has no loop that knows it
        for one in running.captures:
            one.forget()
        assert made.mirror._socket.fileno() == -1
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)


async def test_what_qemu_refuses_leaves_nothing(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "netdev_id", lambda alias: f"no{alias}")
    async with embed() as driver:
        machine, running = await started(driver, tmp_path, USER)
        with pytest.raises(Exception, match="unable to execute QEMU command 'object-add'"):
            await capture(machine, MAC, 1_000_000)
        labels = [entry["label"] for entry in await running.monitor.execute("query-chardev")]
        assert "capture-net0" not in labels
        assert running.captures == []


async def test_a_mirror_that_nobody_ends_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HANG_UP_TIMEOUT_S", 0.01)
    await module._hung_up(asyncio.Event())
