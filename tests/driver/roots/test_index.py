"""The index of roots, and the end of those whose owners were killed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.roots.lock import Holder
from pytest_embedvm.driver.roots.purge import DAY_S, purge_dead
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.qemu.process import command_of

#: A process that opens a root, and is killed.
KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.roots.root import Root
root = Root(Path(sys.argv[1]))
if "disposable" in sys.argv:
    index.dispose(root.path)
root.acquire()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dead(tmp_path: Path) -> Callable[..., Path]:
    """Makes a root whose owner was killed so many seconds ago."""

    def dead(name: str = "dead", *words: str, age: float = 2 * DAY_S) -> Path:
        done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / name), *words], check=False)
        assert done.returncode == -signal.SIGKILL
        moment = time.time() - age
        os.utime(index._file(tmp_path / name), (moment, moment))
        return tmp_path / name

    return dead


def paths() -> list[Path]:
    return [entry.path for entry in index.roots()]


def test_a_root_is_there_from_its_opening_to_its_purge(tmp_path: Path) -> None:
    assert index.roots() == []
    root = Root(tmp_path / "root")
    before = time.time()
    root.acquire()
    (entry,) = index.roots()
    assert (entry.path, entry.pid, entry.closed) == (root.path, os.getpid(), False)
    assert before <= entry.opened <= time.time()
    assert (entry.alive, entry.dead, entry.holder) == (True, False, Holder(os.getpid(), command_of(os.getpid())))
    root.release()
    (entry,) = index.roots()
    assert (entry.alive, entry.dead, entry.closed, entry.holder) == (False, False, True, None)
    root.purge()
    assert index.roots() == []


def test_the_last_opened_comes_first(tmp_path: Path) -> None:
    roots = [Root(tmp_path / name) for name in "abc"]
    for root in (*roots, roots[1]):
        root.acquire()
        root.release()
    assert paths() == [tmp_path / name for name in "bca"]


@pytest.mark.parametrize("name", ["ünï,cødé '\"\n", os.fsdecode(b"no text \xff")])
def test_any_path_may_be_one(tmp_path: Path, name: str) -> None:
    root = Root(tmp_path / name)
    root.acquire()
    assert paths() == [root.path]
    root.release()


def test_one_that_is_gone_or_another_is_dropped(tmp_path: Path, cache: Path) -> None:
    for name in ("removed", "replaced", "linked", "kept"):
        root = Root(tmp_path / name)
        root.acquire()
        root.release()
    (tmp_path / "removed").rename(tmp_path / "elsewhere")
    (tmp_path / "replaced").rename(tmp_path / "elsewhere2")
    (tmp_path / "replaced").mkdir()
    (tmp_path / "linked").rename(tmp_path / "elsewhere3")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere3")
    assert paths() == [tmp_path / "kept"]
    assert len(list((cache / "roots").iterdir())) == 1


def test_a_cache_that_cannot_be_written_has_no_index(tmp_path: Path, cache: Path) -> None:
    cache.write_text("no directory")
    root = Root(tmp_path / "root")
    root.acquire()
    assert index.roots() == []
    root.release()
    root.purge()


@pytest.mark.parametrize("damaged", ['{"path": "/', "", "[]", "{}", "[" * 100_000], ids=len)
def test_a_damaged_entry_is_set_aside_and_reported(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, damaged: str
) -> None:
    for name in "ab":
        root = Root(tmp_path / name)
        root.acquire()
        root.release()
    index._file(tmp_path / "a", index.CLOSED).write_text(damaged)
    with caplog.at_level(logging.WARNING):
        assert paths() == [tmp_path / "b"]
        assert paths() == [tmp_path / "b"]
    aside = index._file(tmp_path / "a", ".closed.json.unreadable")
    assert aside.read_text() == damaged
    assert [str(aside) in record.getMessage() for record in caplog.records] == [True]


def test_a_root_of_a_killed_process_is_purged_after_a_day(dead: Callable[..., Path]) -> None:
    old, fresh = dead("old", "disposable"), dead("fresh", "disposable", age=DAY_S / 2)
    assert [entry.dead for entry in index.roots()] == [True, True]
    assert purge_dead() == [old]
    assert not old.exists()
    assert paths() == [fresh]
    assert purge_dead(0) == [fresh]
    assert paths() == []
    assert not fresh.exists()


def test_what_was_given_back_or_is_open_is_spared(tmp_path: Path) -> None:
    given, taken = Root(tmp_path / "given"), Root(tmp_path / "taken")
    for root in (given, taken):
        index.dispose(root.path)
        root.acquire()
    given.release()
    assert purge_dead(0) == []
    taken.release()


def test_what_a_user_named_is_spared(dead: Callable[..., Path]) -> None:
    named, made = dead("named"), dead("made", "disposable")
    for root in (named, made):
        (root / "etc/qemu").mkdir(parents=True)
        (root / "etc/qemu/a.xml").write_text("")
    assert purge_dead() == [made]
    assert (named / "etc/qemu/a.xml").exists()


def test_that_it_is_a_tests_is_forgotten_with_it(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    index.dispose(root.path)
    for _ in range(2):
        root.acquire()
        assert [entry.disposable for entry in index.roots()] == [True]
        root.release()
        assert [entry.disposable for entry in index.roots()] == [True]
    root.purge()
    root = Root(tmp_path / "root")
    root.acquire()
    assert [entry.disposable for entry in index.roots()] == [False]
    root.release()


def test_killed_just_when_it_was_opened_again_it_is_dead(dead: Callable[..., Path], cache: Path) -> None:
    root = dead("root", "disposable")
    (file,) = (cache / "roots").iterdir()
    file.with_suffix(".closed.json").write_bytes(file.read_bytes())
    assert [entry.dead for entry in index.roots()] == [True]
    assert purge_dead(0) == [root]
    assert list((cache / "roots").iterdir()) == []


def test_what_was_lent_is_given_back(dead: Callable[..., Path], tmp_path: Path) -> None:
    root = dead("root", "disposable")
    (tmp_path / "disk").touch()
    status = (tmp_path / "disk").stat()
    loan = {"path": str(tmp_path / "disk"), "device": status.st_dev, "inode": status.st_ino}
    owner = {"user": status.st_uid, "group": status.st_gid, "machines": ["a"]}
    if os.getuid() == 0:
        os.chown(tmp_path / "disk", 4242, 4242)
    (root / "run/qemu/owners.json").write_text(json.dumps([{**loan, **owner}]))
    assert purge_dead() == [root]
    assert (tmp_path / "disk").stat().st_uid == status.st_uid


def test_nothing_but_the_drivers_own_is_removed(dead: Callable[..., Path], tmp_path: Path) -> None:
    root = dead("root", "disposable")
    (tmp_path / "victim/qemu").mkdir(parents=True)
    (tmp_path / "victim/qemu/precious").touch()
    (root / "log").symlink_to(tmp_path / "victim")
    (root / "lib/qemu/save/link").symlink_to(tmp_path / "victim")
    (root / "etc").mkdir()
    (root / "etc/qemu.conf").touch()
    assert purge_dead() == [root]
    assert (tmp_path / "victim/qemu/precious").exists()
    assert sorted(path.name for path in root.rglob("*")) == ["etc", "log", "qemu.conf"]


def test_a_root_that_is_not_the_recorded_one_is_spared(dead: Callable[..., Path], tmp_path: Path) -> None:
    root = dead("root", "disposable")
    root.rename(tmp_path / "moved")
    root.symlink_to(tmp_path / "moved")
    assert purge_dead() == []
    assert (tmp_path / "moved/lib/qemu/embedvm.json").exists()


def test_a_root_with_a_living_machine_is_spared(dead: Callable[..., Path]) -> None:
    root = dead("root", "disposable")
    environment = {"HOME": str(root / "lib/qemu/domain-1-a")}
    words = ["/bin/sh", "-c", "echo; read line"]
    with subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        assert machine.stdout
        machine.stdout.readline()  # /proc shows a program's environment a moment after it has begun
        (root / "run/qemu/a.pid").write_text(f"{machine.pid}\n")
        assert purge_dead() == []
        machine.kill()
    assert purge_dead() == [root]


def test_the_number_of_a_process_is_not_believed(dead: Callable[..., Path]) -> None:
    root = dead("root", "disposable")
    (root / "run/qemu/a.pid").write_text(f"{os.getpid()}\n")
    (root / "run/qemu/b.pid").write_text("half wri")
    assert purge_dead() == [root]
