"""An overlay is what QEMU's own tool takes for one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm.errors import InternalError, InvalidArgument
from pytest_embedvm.qemu.image import Format, backing, create_blank, create_overlay, image_format, virtual_size

MIB = 1 << 20
needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="there is no qemu-img")


def sparse(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def qemu_img(*words: str | Path) -> Any:
    done = subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True)
    return json.loads(done.stdout) if "--output=json" in words else done.stdout


@needs_qemu_img
@pytest.mark.parametrize("size", [512, 1000, 10 * MIB, 512 * MIB, 5 << 40])
def test_of_a_raw_disk(tmp_path: Path, size: int) -> None:
    base, overlay = sparse(tmp_path / "base, with=words", size), tmp_path / "overlay"
    create_overlay(base, overlay, "raw")
    info = qemu_img("info", "--output=json", overlay)
    assert (info["format"], info["virtual-size"]) == ("qcow2", -(-size // 512) * 512)
    assert (info["backing-filename"], info["backing-filename-format"]) == (str(base), "raw")
    assert qemu_img("check", "--output=json", overlay)["check-errors"] == 0
    assert overlay.stat().st_mode & 0o777 == 0o600


@needs_qemu_img
def test_writes_stay_in_the_overlay(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    base.write_bytes(b"base".ljust(MIB, b"."))
    before = base.read_bytes()
    create_overlay(base, overlay, "raw")
    subprocess.run(["qemu-io", "-c", "write -P 7 65536 65536", overlay], check=True, capture_output=True)
    qemu_img("convert", "-O", "raw", overlay, tmp_path / "whole")
    assert base.read_bytes() == before
    assert (tmp_path / "whole").read_bytes() == before[:65536] + b"\x07" * 65536 + before[131072:]
    assert "leaks" not in qemu_img("check", "--output=json", overlay)


@needs_qemu_img
def test_of_an_overlay(tmp_path: Path) -> None:
    base, middle, top = sparse(tmp_path / "base", 3 * MIB), tmp_path / "middle", tmp_path / "top"
    create_overlay(base, middle, "raw")
    create_overlay(middle, top, "qcow2")
    assert virtual_size(top, "qcow2") == 3 * MIB
    assert [image["format"] for image in qemu_img("info", "--output=json", "--backing-chain", top)] == [
        *("qcow2", "qcow2", "raw")
    ]


def test_the_format_is_seen_by_the_magic(tmp_path: Path) -> None:
    base, overlay = sparse(tmp_path / "base", MIB), tmp_path / "overlay"
    create_overlay(base, overlay, "raw")
    assert (image_format(base), image_format(overlay)) == ("raw", "qcow2")


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    base, overlay = sparse(tmp_path / "base", MIB), tmp_path / "overlay"
    overlay.write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        create_overlay(base, overlay, "raw")
    assert overlay.read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"QFI\xfb", b"x" * 100])
def test_no_qcow2(tmp_path: Path, content: bytes) -> None:
    base = tmp_path / "base"
    base.write_bytes(content)
    with pytest.raises(InternalError, match="base is no qcow2 image"):
        create_overlay(base, tmp_path / "overlay", "qcow2")
    assert not (tmp_path / "overlay").exists()


def test_a_disk_that_no_overlay_can_hold(tmp_path: Path) -> None:
    base, overlay = sparse(tmp_path / "base", MIB), tmp_path / "overlay"
    create_overlay(base, overlay, "raw")
    with overlay.open("r+b") as file:
        file.seek(24)
        file.write((1 << 60).to_bytes(8, "big"))
    with pytest.raises(InvalidArgument, match="too large a disk"):
        create_overlay(overlay, tmp_path / "second", "qcow2")


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    formats: list[Format] = ["raw", "qcow2"]
    for base_format in formats:
        with pytest.raises(InvalidArgument, match="1023 bytes"):
            create_overlay(tmp_path / ("d/" * 600) / "base", tmp_path / "overlay", base_format)


@needs_qemu_img
def test_a_blank_disk_is_one_for_qemu(tmp_path: Path) -> None:
    blank = tmp_path / "blank.qcow2"
    create_blank(blank, 3 * MIB)
    assert virtual_size(blank, "qcow2") == 3 * MIB
    assert backing(blank) is None
    said = subprocess.run(["qemu-img", "check", blank], capture_output=True, text=True, check=True).stdout
    assert "No errors were found" in said
    (tmp_path / "zeros").write_bytes(bytes(3 * MIB))
    subprocess.run(["qemu-img", "compare", "-q", "-f", "qcow2", "-F", "raw", blank, tmp_path / "zeros"], check=True)
