from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.qemu import binary
from pytest_embedvm.qemu.binary import BinaryIdentity, find_binary


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_the_first_in_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    program(tmp_path / "b/qemu-system-riscv64")
    assert find_binary("riscv64") == tmp_path / "b/qemu-system-riscv64"
    program(tmp_path / "a/qemu-system-riscv64")
    assert find_binary("riscv64") == tmp_path / "a/qemu-system-riscv64"


def test_rhels_emulator_is_of_the_hosts_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "RHEL_BINARY", program(tmp_path / "qemu-kvm"))
    assert find_binary(os.uname().machine) == tmp_path / "qemu-kvm"
    with pytest.raises(SystemFailure):
        find_binary("vax")


@pytest.mark.parametrize(
    ("arch", "packages"),
    [
        ("x86_64", "the package qemu-system-x86 (Debian) or qemu-system-x86 (Fedora)"),
        ("aarch64", "the package qemu-system-arm (Debian) or qemu-system-aarch64 (Fedora)"),
        ("m68k", "the package qemu-system-misc (Debian) or qemu-system-m68k (Fedora)"),
    ],
)
def test_a_missing_emulator_names_its_package(
    arch: str, packages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "RHEL_BINARY", tmp_path / "qemu-kvm")
    with pytest.raises(SystemFailure) as caught:
        find_binary(arch)
    assert str(caught.value) == f"Cannot find QEMU binary qemu-system-{arch} in PATH; it is in {packages}"


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("/nonexistent/qemu", "Cannot check QEMU binary /nonexistent/qemu: No such file or directory"),
        ("/etc/passwd", "QEMU binary /etc/passwd is not executable: Permission denied"),
        ("qemu-system-x86_64", "Cannot check QEMU binary qemu-system-x86_64: No such file or directory"),
        ("/etc", "QEMU binary /etc is not executable: Is a directory"),
    ],
)
def test_what_is_no_program_is_said_in_libvirts_words(path: str, sentence: str) -> None:
    with pytest.raises(SystemFailure) as caught:
        BinaryIdentity.of(Path(path))
    assert str(caught.value) == sentence
    assert (caught.value.code, caught.value.origin) == (ErrorNumber.SYSTEM_ERROR, ErrorDomain.QEMU)


def test_the_identity_is_stable(tmp_path: Path) -> None:
    qemu = program(tmp_path / "bin/qemu")
    assert BinaryIdentity.of(qemu) == BinaryIdentity.of(qemu)


def test_a_rewritten_binary_is_another(tmp_path: Path) -> None:
    qemu = program(tmp_path / "bin/qemu")
    before = BinaryIdentity.of(qemu)
    os.utime(qemu, ns=(1, 1))
    touched = BinaryIdentity.of(qemu)
    assert touched == replace(before, mtime_ns=1)
    copy = tmp_path / "copy"
    shutil.copy2(qemu, copy)
    copy.replace(qemu)
    assert BinaryIdentity.of(qemu) == replace(touched, inode=BinaryIdentity.of(qemu).inode) != touched


def test_a_link_that_leads_elsewhere_is_another(tmp_path: Path) -> None:
    link = tmp_path / "qemu"
    link.symlink_to(program(tmp_path / "a/bin/qemu"))
    before = BinaryIdentity.of(link)
    link.unlink()
    link.symlink_to(program(tmp_path / "b/bin/qemu"))
    assert BinaryIdentity.of(link).resolved != before.resolved


@pytest.mark.parametrize("where", ["lib/qemu", "lib64/qemu", f"lib/{os.uname().machine}-linux-gnu/qemu"])
def test_an_added_module_makes_it_another(where: str, tmp_path: Path) -> None:
    qemu = program(tmp_path / "bin/qemu")
    modules = tmp_path / where
    modules.mkdir(parents=True)
    os.utime(modules, ns=(1, 1))
    before = BinaryIdentity.of(qemu)
    (modules / "ui-sdl.so").touch()
    assert BinaryIdentity.of(qemu) != before


def test_modules_of_the_environment_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    qemu = program(tmp_path / "bin/qemu")
    before = BinaryIdentity.of(qemu)
    monkeypatch.setenv("QEMU_MODULE_DIR", str(tmp_path))
    assert BinaryIdentity.of(qemu) != before
