"""Files, by a real guest agent and the guest's own server, which run on this host."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import pytest

from pytest_embedvm.guest import VM, GuestFileError, transfer
from pytest_embedvm.guest.archive import unpack
from tests.fakes.guest import FakeDomain

MIB = 1 << 20


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 20 * MIB])
def test_bytes_come_back(hosted: VM, tmp_path: Path, size: int) -> None:
    data, path = os.urandom(size), tmp_path / "a b'é"
    hosted.write_bytes(str(path), data)
    assert path.read_bytes() == data
    assert hosted.read_bytes(str(path)) == data


def test_text(hosted: VM, tmp_path: Path) -> None:
    path = tmp_path / "text"
    hosted.write_text(str(path), "é\r\n", 0o600)
    assert path.read_bytes() == "é\r\n".encode()
    assert hosted.read_text(str(path)) == "é\r\n"
    assert mode(path) == 0o600


def test_a_new_file_is_nobody_elses_to_write(hosted: VM, tmp_path: Path) -> None:
    hosted.write_bytes(str(tmp_path / "new"), b"x")
    assert mode(tmp_path / "new") == 0o644


def test_a_file_keeps_its_mode_and_nothing_of_its_content(hosted: VM, tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"longer than new")
    path.chmod(0o751)
    hosted.write_bytes(str(path), b"new")
    assert (path.read_bytes(), mode(path)) == (b"new", 0o751)


def test_a_file_without_size(hosted: VM) -> None:
    assert hosted.read_text("/proc/version") == Path("/proc/version").read_text()


@pytest.mark.parametrize("place", ["no/such/file", "."])
def test_errors_name_the_path_in_the_guests_words(hosted: VM, tmp_path: Path, place: str) -> None:
    path = f"{tmp_path}/{place}"
    words = "[Ii]s a directory|[Dd]irectory nonexistent|No such file or directory"
    with pytest.raises(GuestFileError, match=words) as caught:
        hosted.read_bytes(path)
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(GuestFileError, match=words) as caught:
        hosted.write_bytes(path, b"x")
    assert str(caught.value).startswith(f"{path}: ")


def test_nothing_stays_open_after_an_error(by_agent: VM, domain: FakeDomain, tmp_path: Path) -> None:
    with pytest.raises(GuestFileError):
        by_agent.read_bytes(str(tmp_path))
    assert domain.commands == ["guest-file-open", "guest-file-read", "guest-file-close"]


def test_a_file_and_its_mode_cross_both_ways(hosted: VM, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    first.write_bytes(os.urandom(3 * MIB))
    first.chmod(0o750)
    third.write_bytes(b"old")
    hosted.push(first, str(second))
    hosted.pull(str(second), third)
    assert first.read_bytes() == second.read_bytes() == third.read_bytes()
    assert mode(second) == mode(third) == 0o750


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "sub dir" / "empty").mkdir(parents=True)
    (tree / "script").write_text("#!/bin/sh\n")
    (tree / "script").chmod(0o755)
    (tree / "sub dir" / "é").write_bytes(b"\0\xff")
    (tree / "sub dir" / "é").chmod(0o600)
    (tree / "link").symlink_to("sub dir/é")
    (tree / "sub dir" / ("n" * 150)).write_bytes(b"long")
    os.link(tree / "script", tree / "twin")
    (tree / "sub dir").chmod(0o555)
    return tree


def listing(directory: Path) -> dict[str, tuple[int, bytes | str]]:
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in directory.rglob("*"):
        content: bytes | str = (
            str(path.readlink()) if path.is_symlink() else b"" if path.is_dir() else path.read_bytes()
        )
        found[str(path.relative_to(directory))] = (path.lstat().st_mode, content)
    return found


def test_a_directory_crosses_both_ways(hosted: VM, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "packed"
    monkeypatch.setattr(transfer, "temporary_path", lambda: str(packed))
    there, back = tmp_path / "new" / "there", tmp_path / "deep" / "back"
    hosted.push(tree, str(there))
    hosted.pull(str(there), back)
    assert listing(tree) == listing(there) == listing(back)
    assert len(listing(back)) == 7
    assert not packed.exists()


def test_what_is_not_there_cannot_cross(hosted: VM, tmp_path: Path) -> None:
    with pytest.raises(GuestFileError, match="No such file"):
        hosted.pull(str(tmp_path / "no"), tmp_path / "x")
    with pytest.raises(FileNotFoundError):
        hosted.push(tmp_path / "no", str(tmp_path / "x"))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["/abs", "../up", "a/../../up"])
def test_a_guest_cannot_write_outside(tmp_path: Path, name: str) -> None:
    with (tmp_path / "tar").open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        file.seek(0)
        with pytest.raises(GuestFileError, match="leads outside"):
            unpack(file, tmp_path / "here")
    assert list((tmp_path / "here").iterdir()) == []


def test_a_guest_cannot_write_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tarfile.TarInfo("d")
    link.type, link.linkname = tarfile.SYMTYPE, str(outside)
    with (tmp_path / "tar").open("w+b") as file:
        with tarfile.open(fileobj=file, mode="w") as tar:
            tar.addfile(link)
            tar.addfile(tarfile.TarInfo("d/file"))
        file.seek(0)
        with pytest.raises((GuestFileError, OSError)):
            unpack(file, tmp_path / "here")
    assert list(outside.iterdir()) == []


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "tar").write_bytes(b"x" * 2000)
    with (tmp_path / "tar").open("rb") as file, pytest.raises(GuestFileError, match="is no archive"):
        unpack(file, tmp_path / "here")
