from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.driver.roots.layout import PLACES, Place
from pytest_embedvm.driver.roots.root import FILE_NAME_BYTES, Root, file_name
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.qemu.process import command_of

_HOLD = """
import sys
from pathlib import Path
from pytest_embedvm.driver.roots.root import Root
root = Root(Path(sys.argv[1]))
root.acquire()
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("name", ["a", "with space", "ü ,x", "1", "~", "a.b", "-x"])
def test_ordinary_names_are_their_own_file_names(name: str) -> None:
    assert file_name(name) == name


@given(st.text(min_size=1))
def test_no_name_leaves_its_directory(name: str) -> None:
    spelled = file_name(name)
    assert "/" not in spelled
    assert "\0" not in spelled
    assert not spelled.startswith(".")
    assert spelled.isprintable()
    assert len(os.fsencode(spelled)) <= FILE_NAME_BYTES


@given(st.text(max_size=300), st.text(max_size=300))
def test_two_names_have_two_file_names(one: str, other: str) -> None:
    assert (file_name(one) == file_name(other)) == (one == other)


def test_long_names_with_one_beginning_differ() -> None:
    assert file_name("a" * 300) != file_name("a" * 301)
    assert file_name("ü" * 150) != file_name("ü" * 151)


def test_is_private_and_made_when_needed(tmp_path: Path) -> None:
    root = Root(tmp_path / "deep" / "root")
    assert list(root.path.iterdir()) == []
    log = root.log_path("a")
    assert log == root.path / "log/qemu/a.log"
    assert {oct(path.stat().st_mode & 0o777) for path in (root.path, log.parent, log.parent.parent)} == {"0o700"}


def test_two_spellings_are_one_root(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    one, other = Root(tmp_path / "real"), Root(tmp_path / "link" / ".." / "link")
    assert one.identity == other.identity
    assert one.path == other.path


def test_opened_it_has_libvirts_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    root = Root(tmp_path / "root")
    root.acquire()
    there = {str(path.relative_to(root.path)) for path in root.path.rglob("*")}
    # As libvirt's own driver has made them when virConnectOpen returns, but for the cache's and helpers' of its own.
    directories = {
        "cache", "run", "run/qemu", "lib", "lib/qemu",
        *(f"lib/qemu/{name}" for name in ("channel", "checkpoint", "dump", "nvram", "ram", "save", "snapshot")),
        "lib/qemu/channel/target",
    }  # fmt: skip
    assert there == directories | {"cache/qemu", "run/qemu/driver.pid", "lib/qemu/embedvm.json"}
    assert (root.path / "cache/qemu").readlink() == tmp_path / "cache"
    root.release()
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    root.acquire()
    assert (root.path / "cache/qemu").readlink() == tmp_path / "other"
    root.release()
    (tmp_path / "other/precious").touch()
    root.purge()
    assert not root.path.exists()
    assert (tmp_path / "other/precious").exists()


@pytest.mark.parametrize("place", PLACES)
def test_every_place_is_below_the_root_and_private(tmp_path: Path, place: Place) -> None:
    root = Root(tmp_path / "root")
    path = root.place(place)
    assert path.is_relative_to(root.path)
    assert path.stat().st_mode & 0o777 == 0o700
    (root.path / PLACES[place][0]).rename(tmp_path / "elsewhere")
    (root.path / PLACES[place][0]).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemFailure, match="cannot create directory"):
        root.place(place)


def test_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFailure, match=r"cannot create directory .*/file: File exists"):
        Root(tmp_path / "file")


def test_one_process_has_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdin
        assert holder.stdout.readline() == "held\n"
        root = Root(tmp_path)
        with pytest.raises(SystemFailure) as caught:
            root.acquire()
        assert caught.value.message == (
            f"Failed to acquire pid file '{tmp_path}/run/qemu/driver.pid': Resource temporarily unavailable "
            f"(held by process {holder.pid}: {command_of(holder.pid)})"
        )
        assert command_of(holder.pid).startswith(f"{sys.executable} -c import sys from pathlib import Path")
        with pytest.raises(SystemFailure, match="Failed to acquire pid file"):
            root.purge()
        holder.kill()  # no clean end: the kernel gives the lock back
        holder.wait()
        root.acquire()
        assert root.pid_file.read_text() == f"{os.getpid()}\n"
        root.release()
        assert not root.pid_file.exists()


def test_what_a_killed_process_was_writing_goes(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    halves = [root.directory(*parts) / ".new-x" for parts in (("etc", "qemu"), ("lib", "qemu", "nvram", "a"))]
    others = [root.directory("etc", "qemu", "networks", "a") / ".new-x", root.path / ".new-x"]
    for path in (*halves, *others):
        path.write_text("half")
    root.acquire()
    assert [path.exists() for path in (*halves, *others)] == [False, False, True, True]
    root.release()


def test_purge_removes_what_the_driver_made_and_nothing_else(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.log_path("a").write_text("x")
    root.definition_path("a").write_text("x")
    (root.path / "etc/qemu.conf").write_text("the user's")
    (root.directory("lib") / "mine").write_text("the user's")
    root.purge()
    left = sorted(str(path.relative_to(root.path)) for path in root.path.rglob("*") if path.is_file())
    assert left == ["etc/qemu.conf", "lib/mine"]
    (root.path / "etc/qemu.conf").unlink()
    (root.path / "lib/mine").unlink()
    root.purge()
    assert not root.path.exists()
    root.purge()


def test_purge_refuses_what_is_open(tmp_path: Path) -> None:
    root = Root(tmp_path)
    root.acquire()
    with pytest.raises(SystemFailure, match="open in this process"):
        root.purge()
    root.release()
    root.release()
