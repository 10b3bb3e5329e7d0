"""A root tells who wrote it, and a newer one's is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_embedvm import __version__
from pytest_embedvm.driver.roots import version
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import ConfigUnsupported, SystemFailure
from tests.driver import tiny
from tests.driver.conftest import OpenDriver


def snapshot(root: Path) -> dict[str, tuple[int, int, int]]:
    status = {str(path): path.lstat() for path in (root, *root.rglob("*"))}
    return {path: (found.st_ino, found.st_mtime_ns, found.st_size) for path, found in status.items()}


def write(root: Path, text: str) -> None:
    (root / version.RECORD).parent.mkdir(parents=True, exist_ok=True)
    (root / version.RECORD).write_text(text)


def test_is_recorded_and_kept(tmp_path: Path) -> None:
    root = Root(tmp_path)
    assert version.read(tmp_path) is None
    root.acquire()
    first = version.read(tmp_path)
    assert first is not None
    assert first.version == __version__
    root.release()
    root.acquire()
    assert version.read(tmp_path) == first
    root.release()


@pytest.mark.parametrize("newer", ["99.0", "0.99", f"{__version__}.1", "99"])
def test_a_newer_one_is_refused_before_anything_is_touched(tmp_path: Path, newer: str) -> None:
    write(tmp_path, json.dumps({"version": newer, "id": "x", "what": "nobody knows yet"}))
    (tmp_path / "etc/qemu").mkdir(parents=True)
    (tmp_path / "etc/qemu/a.xml").write_text("<domain from='the future'/>")
    before = snapshot(tmp_path)
    root = Root(tmp_path)
    for call in (root.acquire, root.purge):
        with pytest.raises(ConfigUnsupported) as caught:
            call()
        assert f"was written by pytest-embedvm {newer}, this is the older {__version__}" in caught.value.message
        assert str(tmp_path) in caught.value.message
    assert snapshot(tmp_path) == before


async def test_a_newer_one_is_refused_at_open(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        await driver.define_xml(tiny.xml(tmp_path))
        root = driver.root.path
    write(root, json.dumps({"version": "99.0", "id": "x"}))
    before = snapshot(root)
    with pytest.raises(ConfigUnsupported, match=r"written by pytest-embedvm 99\.0"):
        async with embed():
            pass
    assert snapshot(root) == before


@pytest.mark.parametrize("older", ["0.0.1", "0.1.0.dev3", "0.1", __version__])
def test_an_older_one_is_used_and_says_so(tmp_path: Path, older: str) -> None:
    write(tmp_path, json.dumps({"version": older, "id": "x"}))
    root = Root(tmp_path)
    root.acquire()
    root.release()
    assert version.read(tmp_path) == version.Record(__version__, "x")


def test_without_a_record_it_is_used(tmp_path: Path) -> None:
    write(tmp_path, "")  # what a power failure may leave
    root = Root(tmp_path)
    root.acquire()
    root.release()
    record = version.read(tmp_path)
    assert record is not None
    assert record.version == __version__


@pytest.mark.parametrize(
    "damaged", ["{", "[]", '{"version": 3, "id": "x"}', '{"version": "new", "id": "x"}', "\0", "[" * 100_000]
)
def test_what_cannot_be_told_is_not_guessed(tmp_path: Path, damaged: str) -> None:
    write(tmp_path, damaged)
    before = snapshot(tmp_path)
    with pytest.raises(SystemFailure, match=r"cannot tell which version wrote root .*embedvm\.json cannot be read"):
        Root(tmp_path).acquire()
    assert snapshot(tmp_path) == before
