"""The archive, read back by another reader and by busybox's cpio."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.initramfs import Archive


def members(data: bytes) -> dict[str, tuple[list[int], bytes]]:
    """Every member of a newc archive: its thirteen numbers and its content."""
    found = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        numbers = [int(data[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        size, length = numbers[6], numbers[11]
        name = data[position + 110 : position + 110 + length]
        assert name.endswith(b"\0")
        start = (position + 110 + length + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return found
        found[name[:-1].decode()] = (numbers, data[start : start + size])
        position = (start + size + 3) // 4 * 4


def sample() -> Archive:
    archive = Archive()
    archive.file("/a/b/script", b"#!/bin/sh\n", 0o755)
    archive.link("a/link", "b/script")
    archive.character_device("dev/null", 1, 3, 0o666)
    archive.directory("empty", 0o1777)
    archive.file("odd", b"x")
    return archive


def test_content_modes_and_devices_come_back() -> None:
    found = members(sample().to_bytes())
    assert list(found) == ["a", "a/b", "a/b/script", "a/link", "dev", "dev/null", "empty", "odd"]
    assert found["a/b/script"] == (found["a/b/script"][0], b"#!/bin/sh\n")
    assert found["a/b/script"][0][1] == stat.S_IFREG | 0o755
    assert found["a/link"] == (found["a/link"][0], b"b/script")
    assert found["dev/null"][0][1] == stat.S_IFCHR | 0o666
    assert found["dev/null"][0][9:11] == [1, 3]
    assert found["empty"][0][1] == stat.S_IFDIR | 0o1777


def test_numbers_are_distinct_and_times_are_none() -> None:
    numbers = [fields for fields, _ in members(sample().to_bytes()).values()]
    assert len({fields[0] for fields in numbers}) == len(numbers)
    assert {fields[5] for fields in numbers} == {0}


def test_the_same_content_in_another_order_is_the_same_archive() -> None:
    one, other = Archive(), Archive()
    one.file("x/1", b"1")
    one.file("x/2", b"2")
    other.file("x/2", b"2")
    other.file("x/1", b"1")
    assert one.to_bytes() == other.to_bytes()


def test_a_file_replaces_the_one_before() -> None:
    archive = Archive()
    archive.file("f", b"old")
    archive.file("f", b"new")
    assert members(archive.to_bytes())["f"][1] == b"new"
    assert "f" in archive
    assert "g" not in archive


def test_cpio_unpacks_it(tmp_path: Path) -> None:
    if shutil.which("busybox") is None:
        pytest.skip("there is no busybox")
    archive = Archive()
    archive.file("a/b/script", b"#!/bin/sh\n", 0o755)
    archive.link("a/link", "b/script")
    subprocess.run(["busybox", "cpio", "-idm"], input=archive.to_bytes(), cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a/link").read_bytes() == b"#!/bin/sh\n"
    assert (tmp_path / "a/b/script").stat().st_mode & 0o777 == 0o755
