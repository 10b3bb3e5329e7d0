from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from pytest_embedvm.domain.model import Domain
from pytest_embedvm.driver import persist
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import SystemFailure
from tests.driver import tiny
from tests.driver.conftest import OpenDriver


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def domain(name: str) -> Domain:
    return Domain(type="qemu", name=name)


def names(root: Root) -> list[str]:
    return [loaded.name for loaded in persist.load(root)]


def test_goes_there_and_back(root: Root) -> None:
    assert names(root) == []
    for name in ("b", "a", "..", "a\nb"):
        persist.save(root, domain(name))
    persist.save(root, domain("a"))
    assert sorted(names(root)) == ["..", "a", "a\nb", "b"]
    assert root.definition_path("a").stat().st_mode & 0o777 == 0o600
    persist.remove(root, "a")
    persist.remove(root, "a")
    assert sorted(names(root)) == ["..", "a\nb", "b"]


@pytest.mark.parametrize(
    "content",
    [b"", b"<domain", b"<domain type='future'><name>a</name></domain>", b"\xff\xfe", b"<domain type='qemu'/>"],
)
def test_what_cannot_be_read_is_kept_and_reported(root: Root, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    persist.save(root, domain("b"))
    path = root.definition_path("a")
    for turn in range(2):
        path.write_bytes(content)
        caplog.clear()
        with caplog.at_level(logging.ERROR):
            assert names(root) == ["b"]
        aside = path.with_name("a.xml.unreadable" + ("-2" if turn else ""))
        assert aside.read_bytes() == content
        assert not path.exists()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert str(path) in caplog.text
        assert str(aside) in caplog.text


def test_a_file_under_another_name_is_not_that_domain(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    persist.save(root, domain("b"))
    root.definition_path("b").rename(root.definition_path("a"))
    with caplog.at_level(logging.ERROR):
        assert names(root) == []
    assert "it holds a domain of another name, 'b'" in caplog.text


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_kept_and_reported(
    root: Root, make: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = root.definition_path("a")
    make(path)
    assert names(root) == []
    assert os.path.lexists(path.with_name("a.xml.unreadable"))
    assert "it is no file" in caplog.text
    persist.save(root, domain("a"))
    assert names(root) == ["a"]


def test_the_second_with_one_uuid_is_kept_and_reported(root: Root, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        persist.save(root, Domain(type="qemu", name=name, uuid=UUID(int=1)))
    assert names(root) == ["a"]
    assert f"it holds the uuid of {root.definition_path('a')}" in caplog.text
    assert (root.path / "etc/qemu/b.xml.unreadable").exists()


def test_a_definition_that_was_set_aside_is_not_overwritten(root: Root) -> None:
    root.definition_path("a").write_text("precious")
    for _ in range(2):
        assert names(root) in ([], ["a"])
        persist.save(root, domain("a"))
    assert (root.path / "etc/qemu/a.xml.unreadable").read_text() == "precious"


def test_a_directory_that_cannot_be_written(root: Root) -> None:
    (root.directory("etc") / "qemu").write_text("in the way")
    with pytest.raises(SystemFailure, match=r"etc/qemu: File exists"):
        persist.save(root, domain("a"))


async def test_a_definition_that_cannot_be_written_is_none(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        (driver.root.directory("etc") / "qemu").write_text("in the way")
        with pytest.raises(SystemFailure):
            await driver.define_xml(tiny.xml(tmp_path))
        assert driver.machines() == []
