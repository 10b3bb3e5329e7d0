"""Templates in the cache, on real machines: made once, whole or not there, whatever their clones do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm.embed import default_cache_dir
from pytest_embedvm.files import HALF
from pytest_embedvm.guest.templates.entry import Entry, entries
from pytest_embedvm.guest.templates.pruning import remove
from tests.plugin.conftest import environments
from tests.small_disk import on_a_small_disk

pytest.importorskip("xdist")

TWO_TESTS = """
import pytest

@pytest.mark.embedvm(image="disk.img", kernel="built-in")
@pytest.mark.parametrize("number", [1, 2])
def test_it(vm, number):
    assert str(vm.origin).startswith("cloned"), vm.origin
    vm.run(f"echo {number} >/dev/vda; sync; head -c 50000000 /dev/zero >/run/zeros; rm /run/zeros")
    assert vm.run("head -c 1 /dev/vda").text == str(number)
"""

CHAIN = """
import pytest
from pytest_embedvm import embedvm

@embedvm.template(image="disk.img", kernel="built-in")
def first(vm):
    vm.run("echo 1 >/dev/vda; sync")

@embedvm.template(after=first)
def second(vm):
    vm.run("echo 2 | dd of=/dev/vda bs=512 seek=1 && sync")

@pytest.mark.embedvm(template="second")
def test_it(vm):
    assert vm.run("head -c 1 /dev/vda; dd if=/dev/vda bs=512 skip=1 count=1 2>/dev/null | head -c 1").text == "12"
"""

DIES = """
import os, signal
from pytest_embedvm import embed

def freeze(domain, folder):
    (folder / "state").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

embed.freeze = freeze
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One with templates of its own; what else is in the user's it has, too."""
    users, cache = default_cache_dir(), tmp_path / "cache"
    cache.mkdir(mode=0o700)
    for name in ("guest", "capabilities", "hashes"):
        (users / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        (cache / name).symlink_to(users / name)
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(cache))
    return cache


@pytest.fixture
def tests(pytester: pytest.Pytester) -> None:
    (pytester.path / "disk.img").write_bytes(b"0" * (1 << 20))
    pytester.makepyfile(TWO_TESTS)


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("--embedvm", "-q", *words)


def the_template(cache: Path) -> Entry:
    (template,) = [entry for entry in entries(cache) if entry.kind == "template"]
    return template


@pytest.mark.usefixtures("tests")
def test_workers_and_runs_share_one_that_their_clones_leave_as_it_was(pytester: pytest.Pytester, cache: Path) -> None:
    run(pytester, "-n", "2", "--dist", "each").assert_outcomes(passed=4)
    first = the_template(cache)
    assert first.whole, "a clone has written to its template"
    assert first.size < 200 << 20, "the memory that a guest does not use takes no room"
    inode = first.directory.stat().st_ino
    run(pytester).assert_outcomes(passed=2)
    assert the_template(cache).directory.stat().st_ino == inode, "a later run has made it again"
    assert not list((cache / "templates").glob(f"{HALF}*"))


@pytest.mark.usefixtures("tests")
def test_a_builder_that_is_killed_leaves_no_template_and_no_machine(pytester: pytest.Pytester, cache: Path) -> None:
    words = [sys.executable, "-m", "pytest", "--embedvm", "-q"]
    pytester.makeconftest(DIES)
    died = subprocess.run(words, cwd=pytester.path, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL
    (half,) = (cache / "templates").glob(f"{HALF}*")
    assert (half / "state").read_bytes() == b"half"
    assert entries(cache) == []
    pytester.makeconftest("")
    run(pytester).assert_outcomes(passed=2)
    assert the_template(cache).whole
    assert not list((cache / "templates").glob(f"{HALF}*"))
    assert not [name for _, name in environments(str(half)) if "qemu" in name]


@pytest.mark.usefixtures("tests")
def test_a_disk_without_room_for_one_is_the_reason_to_boot(pytester: pytest.Pytester, cache: Path) -> None:
    """The memory of a guest whose template is made lies in a file: QEMU is killed when that finds no room."""
    pytester.makepyfile(TWO_TESTS.replace('startswith("cloned")', 'startswith("booted: no space is left in ")'))
    (cache / "templates").mkdir(mode=0o700)
    words = on_a_small_disk(cache / "templates", "16m")
    inner = ["sh", "-c", '"$@" && ls "$EMBEDVM_CACHE_DIR/templates"', "sh", sys.executable, "-m", "pytest", "--embedvm"]
    done = subprocess.run([*words, *inner, "-q"], cwd=pytester.path, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout
    assert [Path(name).suffix for name in done.stdout.splitlines()[-1:]] == [".lock"]


@pytest.mark.usefixtures("tests")
def test_one_whose_disk_stands_on_another_needs_it(pytester: pytest.Pytester, cache: Path) -> None:
    pytester.makepyfile(CHAIN)
    run(pytester).assert_outcomes(passed=1)
    found = {entry.title: entry for entry in entries(cache)}
    assert found.keys() == {"first", "second"}
    assert found["second"].stands_on == {found["first"].directory}
    assert remove([found["first"]], cache) == [found["first"]]
    os.truncate(found["first"].directory / "disks/vda.qcow2", 0)
    assert not any(entry.whole for entry in entries(cache))
    run(pytester).assert_outcomes(passed=1)
    assert all(entry.whole for entry in entries(cache))
    assert remove(entries(cache), cache) == []
