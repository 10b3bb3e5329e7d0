from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.image import build
from pytest_embedvm.guest.image.build import build_guest
from tests.guest.image.test_initramfs import members
from tests.guest.image.test_vmlinux import elf


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel of a few bytes, which builds in no time."""
    monkeypatch.delenv("EMBEDVM_KERNEL", raising=False)
    monkeypatch.delenv("EMBEDVM_KERNEL_MODULES", raising=False)
    path = tmp_path / "vmlinux"
    path.write_bytes(elf((b"Xen", 18)))
    return path


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one line for each build, in whatever process."""
    log = tmp_path / "builds"
    log.write_text("")
    real = build.assemble

    def assemble(*arguments: object, **more: object) -> bytes:
        with log.open("a") as file:
            file.write("built\n")
        return real(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "assemble", assemble)
    return log


def count(builds: Path) -> int:
    return len(builds.read_text().splitlines())


def test_the_second_call_builds_nothing(tmp_path: Path, kernel: Path, builds: Path) -> None:
    first = build_guest(tmp_path / "cache", kernel=kernel)
    assert build_guest(tmp_path / "cache", kernel=kernel) == first
    assert count(builds) == 1
    assert first.kernel.read_bytes() == kernel.read_bytes()
    assert (first.release, first.arch) == ("6.1.0-test", "x86_64")
    assert "no modules were found" in first.notes[0]


def test_what_is_in_it(tmp_path: Path, kernel: Path) -> None:
    found = members(build_guest(tmp_path / "cache", kernel=kernel).initrd.read_bytes())
    assert {"init", "bin/busybox", "bin/qemu-ga", "bin/shutdown", "dev/console", "etc/fstab", "proc"} <= set(found)
    assert found["init"][0][1] == 0o100755
    assert found["etc/fstab"][0][1] == 0o100644
    assert found["bin/sh"][1] == b"busybox"
    assert b"\x1b[6n\0" not in found["bin/busybox"][1]


def test_the_same_again_is_the_same_bytes(tmp_path: Path, kernel: Path) -> None:
    one, other = (build_guest(tmp_path / name, kernel=kernel) for name in ("one", "other"))
    assert one.initrd.read_bytes() == other.initrd.read_bytes()
    assert one.initrd.parent.name == other.initrd.parent.name


def _child(cache: Path, kernel: Path) -> None:
    build_guest(cache, kernel=kernel)


def test_processes_that_start_together_build_once(tmp_path: Path, kernel: Path, builds: Path) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_child, args=(tmp_path / "cache", kernel)) for _ in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 6
    assert count(builds) == 1


@pytest.mark.parametrize("damage", ["initrd", "kernel", "manifest", "gone"])
def test_damage_is_built_anew(tmp_path: Path, kernel: Path, builds: Path, damage: str) -> None:
    image = build_guest(tmp_path / "cache", kernel=kernel)
    whole = image.initrd.read_bytes()
    if damage == "initrd":
        image.initrd.write_bytes(whole[:-1])
    elif damage == "kernel":
        image.kernel.write_bytes(bytes(image.kernel.stat().st_size))
    elif damage == "manifest":
        next(image.kernel.parent.parent.glob("*.json")).write_text('{"files": {}, "image"')
    else:
        image.initrd.unlink()
    again = build_guest(tmp_path / "cache", kernel=kernel)
    assert again.initrd.read_bytes() == whole
    assert again.kernel.read_bytes() == kernel.read_bytes()
    assert count(builds) == 2
    assert not list((tmp_path / "cache/guest").glob(".new-*"))


def test_another_kernel_is_another_guest(tmp_path: Path, kernel: Path, builds: Path) -> None:
    first = build_guest(tmp_path / "cache", kernel=kernel)
    kernel.write_bytes(elf((b"Xen", 18)) + b"changed")
    assert build_guest(tmp_path / "cache", kernel=kernel).kernel != first.kernel
    assert count(builds) == 2


def test_a_cache_that_cannot_be_written(tmp_path: Path, kernel: Path, builds: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="cannot be written"):
        first = build_guest(tmp_path / "cache", kernel=kernel)
    try:
        # Warnings are errors here: the second call gives none, and builds nothing.
        assert build_guest(tmp_path / "cache", kernel=kernel) == first
        assert count(builds) == 1
        assert first.kernel.is_relative_to(build._own[os.getpid()])
    finally:
        build._forget(os.getpid())
    assert not first.kernel.exists()


def test_modules_that_are_none(tmp_path: Path, kernel: Path) -> None:
    with pytest.raises(OperationUnsupported, match="cannot read the kernel's modules"):
        build_guest(tmp_path / "cache", kernel=kernel, modules=tmp_path)
