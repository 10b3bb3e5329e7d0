"""files: private, and never half written."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from pytest_embedvm.files import copy_sparse, make_private_directory, memory_file, set_aside, write_atomically


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_directories_are_private(tmp_path: Path) -> None:
    made = make_private_directory(tmp_path / "a" / "b")
    assert made == tmp_path / "a" / "b"
    assert mode(made) == mode(made.parent) == 0o700


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0o755)
    make_private_directory(tmp_path / "a")
    assert mode(tmp_path / "a") == 0o755


def test_a_file_in_the_way_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(FileExistsError):
        make_private_directory(tmp_path / "a")


def test_writing_replaces(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert mode(path) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_failure_keeps_the_old_bytes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(descriptor: int) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_what_is_set_aside_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    for number in range(3):
        path.write_text(str(number))
        set_aside(path)
    kept = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert kept == {"a.xml.unreadable": "0", "a.xml.unreadable-2": "1", "a.xml.unreadable-3": "2"}


def test_what_cannot_be_renamed_stays(tmp_path: Path) -> None:
    assert set_aside(tmp_path / "gone") == tmp_path / "gone"


def test_a_memory_file_is_in_no_directory() -> None:
    with memory_file("embedvm-test") as file:
        file.write(b"x")
        file.flush()
        assert Path(f"/proc/self/fd/{file.fileno()}").read_bytes() == b"x"
        assert os.fstat(file.fileno()).st_nlink == 0
        assert not os.get_inheritable(file.fileno())


def test_a_copy_has_its_holes(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for at in 0, 5 << 20, 64 << 20:
            file.seek(at)
            file.write(b"data" * 3000)
        file.truncate(128 << 20)
    copy_sparse(source, target)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source.stat().st_blocks + 8
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"x", bytes(4096)])
def test_a_copy_of_little(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "source").write_bytes(content)
    copy_sparse(tmp_path / "source", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == content


def test_a_copy_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with pytest.raises(FileNotFoundError):
        copy_sparse(source, target)
    source.write_bytes(b"data")
    target.write_bytes(b"there")
    with pytest.raises(FileExistsError):
        copy_sparse(source, target)
    assert target.read_bytes() == b"there"
    target.unlink()

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fcntl, "ioctl", fail)
    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(OSError, match="No space left on device"):
        copy_sparse(source, target)
    assert not target.exists()
