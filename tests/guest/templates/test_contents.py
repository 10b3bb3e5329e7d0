"""contents: the same content has the same digest, whatever the file is called and wherever it has holes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.guest.templates import contents
from pytest_embedvm.guest.templates.contents import NOTED_BYTES, backing_file, file_digest, image_digest
from pytest_embedvm.qemu.image import create_blank, create_overlay


class Reads:
    """Counts how often a file is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self._read = contents._digest
        monkeypatch.setattr(contents, "_digest", self)

    def __call__(self, file: object) -> str:
        self.count += 1
        return self._read(file)  # type: ignore[arg-type]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Reads:
    monkeypatch.setattr(contents, "_known", {})
    return Reads(monkeypatch)


def large(path: Path, byte: bytes = b"x") -> Path:
    path.write_bytes(byte * NOTED_BYTES)
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of just now count as written long ago."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10 * contents.SETTLED_NS)


@pytest.mark.usefixtures("settled")
def test_a_large_file_is_read_once_by_all_processes(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path / "kernel")
    digest = file_digest(path)
    assert file_digest(path) == digest
    assert reads.count == 1
    monkeypatch.setattr(contents, "_known", {})  # as another process
    assert file_digest(path) == digest
    assert reads.count == 1


@pytest.mark.usefixtures("settled")
def test_one_that_looks_different_is_read_again(tmp_path: Path, reads: Reads) -> None:
    path = large(tmp_path / "kernel")
    digest, status = file_digest(path), path.stat()
    large(path, b"y")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # as cp -p and tar do
    assert file_digest(path) != digest
    assert reads.count == 2


def test_one_that_was_written_just_now_is_not_trusted(tmp_path: Path, reads: Reads) -> None:
    path = large(tmp_path / "kernel")
    file_digest(path)
    file_digest(path)
    assert reads.count == 2


@pytest.mark.usefixtures("settled")
def test_a_note_that_is_damaged_is_made_again(
    tmp_path: Path, cache: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = large(tmp_path / "kernel")
    digest = file_digest(path)
    (note,) = (cache / "hashes").iterdir()
    for text in ("", "1 2 x", "1 2 3 4"):
        note.write_text(text)
        monkeypatch.setattr(contents, "_known", {})
        assert file_digest(path) == digest
    assert reads.count == 4


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no directory").write_text("")
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "no directory/cache"))
    path = large(tmp_path / "kernel")
    assert file_digest(path) == file_digest(path)


@given(
    st.lists(st.tuples(st.integers(0, 3 << 18), st.binary(min_size=1, max_size=3)), max_size=5),
    st.integers(1, 1 << 20),
)
def test_a_hole_is_the_zeros_it_is_read_as(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    sparse, full = folder / "sparse", folder / "full"
    full.write_bytes(bytes(size))
    sparse.touch()
    for path in (sparse, full):
        with path.open("r+b") as file:
            for position, data in pieces:
                file.seek(position)
                file.write(data)
            file.truncate(size)
    assert full.read_bytes() == sparse.read_bytes()
    assert contents.file_digest(full) == contents.file_digest(sparse)


@given(st.binary(max_size=64), st.binary(max_size=64), st.integers(0, 1 << 19))
def test_other_content_has_another_digest(
    tmp_path_factory: pytest.TempPathFactory, one: bytes, other: bytes, position: int
) -> None:
    folder = tmp_path_factory.mktemp("files")
    found = []
    for name, data in (("one", one), ("other", other)):
        with (folder / name).open("wb") as file:
            file.seek(position)
            file.write(data)
        found.append(contents.file_digest(folder / name))
    same = (folder / "one").read_bytes() == (folder / "other").read_bytes()
    assert (found[0] == found[1]) == same


def overlay(base: Path, path: Path) -> Path:
    create_overlay(base, path, "qcow2")
    return path


def test_what_an_image_stands_on_counts_and_what_it_is_called_does_not(tmp_path: Path, cache: Path) -> None:
    base, moved = tmp_path / "base", tmp_path / "a/much/longer/name of the same"
    moved.parent.mkdir(parents=True)
    create_blank(base, 1 << 20)
    top = overlay(base, tmp_path / "top")
    digest = image_digest(top)
    assert backing_file(top) == base
    assert image_digest(base) != digest
    moved.write_bytes(base.read_bytes())
    assert image_digest(overlay(moved, tmp_path / "other top")) == digest
    base.write_bytes(base.read_bytes() + b"more")
    assert image_digest(top) != digest
    base.unlink()
    assert image_digest(top) != digest
    assert backing_file(top) is None


def test_images_that_stand_on_each_other_have_an_end(tmp_path: Path, cache: Path) -> None:
    create_blank(tmp_path / "b", 1 << 20)
    overlay(tmp_path / "b", tmp_path / "a")
    (tmp_path / "b").unlink()
    overlay(tmp_path / "a", tmp_path / "b")
    digest = image_digest(tmp_path / "a")
    with (tmp_path / "b").open("ab") as file:
        file.write(b"more")
    assert image_digest(tmp_path / "a") != digest


def test_a_broken_header_is_content_like_any_other(tmp_path: Path, cache: Path) -> None:
    create_blank(tmp_path / "base", 1 << 20)
    top = overlay(tmp_path / "base", tmp_path / "top")
    found = []
    for length in (1 << 20, 1 << 21):
        with top.open("r+b") as file:
            file.seek(16)
            file.write(length.to_bytes(4, "big"))
        found.append(image_digest(top))
        assert backing_file(top) is None
    assert found[0] != found[1]
