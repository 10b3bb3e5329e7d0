from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.closure import MissingLibrary, Search, library_closure
from pytest_embedvm.guest.image.elf import NotELF
from pytest_embedvm.guest.image.programs import which

ARCH = os.uname().machine


@pytest.mark.parametrize("name", ["sh", "qemu-ga", "tar"])
def test_it_is_what_ldd_says(name: str) -> None:
    path = which(name)
    if path is None:
        pytest.skip(f"there is no {name}")
    said = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    expected = {Path(file).resolve() for file in re.findall(r"(/\S+) \(0x", said)}
    assert {file.resolve() for file in library_closure(path, Search(ARCH)).values()} == expected


def test_a_static_binary_needs_nothing() -> None:
    path = which("busybox")
    if path is None or subprocess.run(["ldd", path], capture_output=True, check=False).stdout:
        pytest.skip("there is no static busybox")
    assert library_closure(path, Search(ARCH)) == {}


def test_a_library_that_is_nowhere_is_named(tmp_path: Path) -> None:
    path = which("sh")
    assert path is not None
    (tmp_path / "lib64").mkdir()
    for loader in ("lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"):
        (tmp_path / loader).parent.mkdir(exist_ok=True)
        (tmp_path / loader).write_bytes(b"")
    with pytest.raises(MissingLibrary, match=r"/sh needs libc\.so\.6"):
        library_closure(path, Search(ARCH, (tmp_path,)))


def test_configured_directories_count(tmp_path: Path) -> None:
    (tmp_path / "etc/ld.so.conf.d").mkdir(parents=True)
    (tmp_path / "etc/ld.so.conf").write_text("include /etc/ld.so.conf.d/*.conf\n/opt/first # comment\n")
    (tmp_path / "etc/ld.so.conf.d/a.conf").write_text("# nothing\n/opt/second\n")
    for name in ("opt/first", "opt/second", "lib"):
        (tmp_path / name).mkdir(parents=True)
    found = [str(path.relative_to(tmp_path)) for path in Search(ARCH, (tmp_path,)).directories]
    assert found == ["opt/second", "opt/first", "lib"]


def test_what_is_no_elf_is_told(tmp_path: Path) -> None:
    (tmp_path / "script").write_text("#!/bin/sh\n")
    with pytest.raises(NotELF):
        library_closure(tmp_path / "script", Search(ARCH))
