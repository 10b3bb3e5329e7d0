"""qemu-img as a child, played by a script where it has to misbehave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.errors import InternalError, OperationTimeout
from pytest_embedvm.qemu import image_tool

NOT_MEASURED = "qemu-img: a.luks: Unable to get accurate CPU usage"

Play = Callable[[str], Path]


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Has a shell script be qemu-img; returns the file that has a line for each of its runs."""

    def write(script: str) -> Path:
        program, runs = tmp_path / "qemu-img", tmp_path / "runs"
        program.write_text(f'#!/bin/sh\necho "$*" >>{runs}\ntimes=$(wc -l <{runs})\n{script}\n')
        program.chmod(0o700)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
        return runs

    return write


def test_it_is_run_again_when_only_its_stop_watch_failed(play: Play) -> None:
    runs = play(f'[ "$times" -gt 2 ] || {{ echo "{NOT_MEASURED}" >&2; exit 1; }}')
    asyncio.run(image_tool.run(["create", "-q", "a.luks"]))
    assert runs.read_text() == "create -q a.luks\n" * 3


def test_it_is_not_run_for_ever(play: Play) -> None:
    runs = play(f'echo "{NOT_MEASURED}" >&2; exit 1')
    with pytest.raises(InternalError, match=f"qemu-img create failed: {NOT_MEASURED}"):
        asyncio.run(image_tool.run(["create", "a.luks"]))
    assert len(runs.read_text().splitlines()) == image_tool.TRIES


@pytest.mark.parametrize(("script", "said"), [("echo no space >&2; exit 1", "no space"), ("exit 7", "exit status 7")])
def test_any_other_failure_is_final(play: Play, script: str, said: str) -> None:
    runs = play(script)
    with pytest.raises(InternalError, match=f"qemu-img create failed: {said}$"):
        asyncio.run(image_tool.run(["create", "a"]))
    assert len(runs.read_text().splitlines()) == 1


def test_all_its_runs_share_one_deadline(play: Play) -> None:
    play('echo "so far" >&2; exec sleep 60')
    with pytest.raises(OperationTimeout, match=r"'qemu-img create' did not end within 0.5 s; last seen: so far"):
        asyncio.run(image_tool.run(["create", "a"], timeout=0.5))
