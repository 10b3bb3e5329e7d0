"""store: made once, held while it is used, gone when it is too old or too much."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.errors import OperationTimeout, SystemFailure
from pytest_embedvm.files import HALF
from pytest_embedvm.guest.templates import store as module
from pytest_embedvm.guest.templates.store import Store
from pytest_embedvm.qemu.image import create_blank, create_overlay
from tests.guest.templates.conftest import KEY, Other
from tests.small_disk import on_a_small_disk

OTHER_KEY = "fedcba9876543210"


@pytest.fixture
def store(cache: Path) -> Store:
    return Store(cache / "templates", what="template", limit=None)


class Maker:
    """Makes a template of so many bytes, and counts."""

    def __init__(self, size: int = 4096) -> None:
        self.size = size
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "disks").mkdir()
        (folder / "ram").write_bytes(b"%d" % self.calls + b"r" * self.size)
        (folder / "disks/vda.qcow2").write_bytes(b"disk")


def halves(folder: Path) -> list[Path]:
    return list(folder.glob(f"{HALF}*"))


def test_it_is_made_once_and_listed(store: Store) -> None:
    make = Maker()
    first = store.get(KEY, make, title="a guest")
    assert store.get(KEY, make, title="a guest") == first
    assert make.calls == 1
    (entry,) = store.entries()
    assert (entry.key, entry.kind, entry.title, entry.directory) == (KEY, "template", "a guest", first)
    assert entry.whole
    assert entry.holders == (os.getpid(),)
    assert first.stat().st_mode & 0o777 == 0o700


def test_nothing_of_it_is_seen_before_it_is_whole(store: Store, cache: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "ram").write_bytes(b"half")
        assert store.entries() == []
        Store(cache / "templates", what="template", limit=0).prune()
        assert (folder / "ram").exists(), "somebody else's pruning took what is being made"

    directory = store.get(KEY, make, title="a guest")
    assert not halves(directory.parent)


def test_processes_that_come_at_once_make_it_once_and_say_for_whom_they_wait(
    other: Callable[..., Other], cache: Path
) -> None:
    first = other()
    first.until("making in")
    rest = [other() for _ in range(5)]
    for one in rest:
        assert f"process {first.process.pid} (" in one.until("waiting for")
    first.go_on()
    assert {one.until("got") for one in (first, *rest)} == {f"got all of it in {KEY}"}
    assert (cache / "calls").read_text() == f"{first.process.pid}\n"


def test_a_builder_that_is_killed_leaves_the_lock_free_and_nothing_visible(
    store: Store, other: Callable[..., Other]
) -> None:
    """The next one, who waits already, goes to work at once, and clears away what was half made."""
    first = other()
    half = first.until("making in").removeprefix("making in ")
    second = other()
    second.until("waiting for")
    first.kill()
    assert second.until("making in") != f"making in {half}"
    assert store.entries() == []
    second.go_on()
    assert second.until("got") == f"got all of it in {KEY}"
    (entry,) = store.entries()
    assert not halves(entry.directory.parent)
    assert entry.holders == (second.process.pid,)


def test_what_killed_processes_left_of_others_goes_when_something_is_made(
    store: Store, other: Callable[..., Other], cache: Path
) -> None:
    killed = other(OTHER_KEY)
    killed.until("making in")
    killed.kill()
    assert len(halves(cache / "templates")) == 1
    store.get(KEY, Maker(), title="a guest")
    assert not halves(cache / "templates")


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_one_that_fails_leaves_nothing_and_is_tried_again(store: Store, cache: Path, error: BaseException) -> None:
    def fail(folder: Path) -> None:
        (folder / "ram").write_bytes(b"half")
        raise error

    with pytest.raises(type(error)):
        store.get(KEY, fail, title="a guest")
    assert [path.suffix for path in (cache / "templates").iterdir()] == [".lock"]
    assert store.get(KEY, Maker(), title="a guest").is_dir()


def test_who_waits_in_vain_is_told_for_whom(
    store: Store, other: Callable[..., Other], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = other()
    busy.until("making in")
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.01)
    with pytest.raises(OperationTimeout, match=f"process {busy.process.pid} .* making the template 'a guest' for 0.01"):
        store.get(KEY, Maker(), title="a guest")


@pytest.mark.parametrize("change", ["truncate", "write", "remove", "forget"])
def test_one_that_is_not_as_it_was_made_is_made_anew(
    store: Store, other: Callable[..., Other], cache: Path, change: str
) -> None:
    make = Maker()
    directory = store.get(KEY, make, title="a guest")
    ram = directory / "ram"
    match change:
        case "truncate":
            os.truncate(ram, 10)
        case "write":
            looks = ram.stat()
            ram.write_bytes(ram.read_bytes())
            os.utime(ram, ns=(looks.st_atime_ns, looks.st_mtime_ns + 1))
        case "remove":
            ram.unlink()
        case _:
            (directory / "entry.json").write_text("{")
    again = store.get(KEY, make, title="a guest")
    assert make.calls == 2
    assert again != directory, "this process may have VMs that stand on the old one"
    assert (again / "ram").read_bytes().startswith(b"2")


def test_a_run_makes_it_anew_once_whoever_comes_first(store: Store, cache: Path, other: Callable[..., Other]) -> None:
    make = Maker()
    old = store.get(KEY, make, title="a guest")
    one = other(run="monday")
    one.until("making in")
    one.go_on()
    new = one.until("got").rpartition(" ")[2]
    assert new != old.name
    assert store.get(KEY, make, title="a guest", anew="monday").name == new
    assert store.get(KEY, make, title="a guest").name == new
    assert make.calls == 1
    assert (old / "ram").exists(), "it is held by this process"
    assert store.get(KEY, make, title="a guest", anew="tuesday").name != new
    assert make.calls == 2


def test_one_that_nobody_holds_is_replaced_by_the_one_that_is_made_anew(
    store: Store, cache: Path, other: Callable[..., Other]
) -> None:
    before = other()
    before.until("making in")
    before.go_on()
    before.until("got")
    before.kill()
    assert store.get(KEY, Maker(), title="a guest", anew="monday") == cache / "templates" / KEY
    assert len(store.entries()) == 1


def test_a_dropped_one_stays_for_who_has_it_and_nobody_else_gets_it(
    store: Store, cache: Path, other: Callable[..., Other]
) -> None:
    holder = other()
    holder.until("making in")
    holder.go_on()
    holder.until("got")
    damaged = cache / "templates" / KEY
    store.drop(KEY, damaged)
    make = Maker()
    new = store.get(KEY, make, title="a guest")
    assert make.calls == 1
    assert new != damaged
    assert (damaged / "ram").read_text() == "all of it"
    store.drop(KEY, damaged)
    assert store.get(KEY, make, title="a guest") == new, "one who saw the old one fail dropped the new one"
    holder.kill()
    store.prune()
    assert not damaged.exists()
    assert [entry.directory for entry in store.entries()] == [new]


def test_a_dropped_one_that_nobody_has_is_gone(store: Store, cache: Path, other: Callable[..., Other]) -> None:
    maker = other()
    maker.until("making in")
    maker.go_on()
    maker.until("got")
    maker.kill()
    store.drop(KEY)
    assert not (cache / "templates" / KEY).exists()
    store.drop(KEY)


def test_a_cache_that_was_removed_is_made_anew(store: Store, cache: Path) -> None:
    make = Maker()
    directory = store.get(KEY, make, title="a guest")
    shutil.rmtree(cache)
    assert store.get(KEY, make, title="a guest") == directory
    assert make.calls == 2


def test_a_cache_that_cannot_be_written_is_replaced_for_this_run_with_one_warning(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no directory")
    of_this_run = tmp_path / "run"
    store = Store(tmp_path / "cache/templates", what="template", limit=None, instead=of_this_run)
    make = Maker()
    with pytest.warns(
        UserWarning, match=r"cannot be written \(Not a directory\): templates are made for this run only"
    ):
        directory = store.get(KEY, make, title="a guest")
    assert directory.parent == of_this_run
    with warnings.catch_warnings(action="error"):
        assert store.get(KEY, make, title="a guest") == directory
        store.get(OTHER_KEY, make, title="another")
    assert make.calls == 2
    store.drop(KEY, directory)
    assert store.get(KEY, make, title="a guest") != directory


def test_a_cache_that_cannot_be_written_is_an_error_where_nothing_replaces_it(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no directory")
    with pytest.raises(SystemFailure, match=r"cache/templates cannot be written: Not a directory"):
        Store(tmp_path / "cache/templates", what="template", limit=None).get(KEY, Maker(), title="a guest")


def test_a_disk_that_is_full_is_said_to_be(store: Store, cache: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "ram").write_bytes(bytes(10))
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(
        SystemFailure, match=r"no space is left in .*templates for the template 'a guest'.*cache rm"
    ) as e:
        store.get(KEY, fill, title="a guest")
    assert isinstance(e.value.__cause__, OSError)
    assert e.value.__cause__.errno == errno.ENOSPC
    assert not halves(cache / "templates")
    assert store.get(KEY, Maker(), title="a guest").is_dir()


FILL = """
import sys
from pathlib import Path
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.guest.templates.store import Store

folder = Path(sys.argv[1], "templates")

def make(new):
    try:
        with (new / "ram").open("wb") as ram:
            while True:
                ram.write(bytes(4096).replace(b"\\0", b"x"))
                ram.flush()
    except OSError:
        pass
    raise RuntimeError("QEMU was killed by SIGBUS")

try:
    Store(folder, what="template", limit=None).get("0" * 16, make, title="a guest")
except SystemFailure as error:
    print(error)
print([path.name for path in folder.iterdir()])
"""


def test_a_disk_that_is_really_full_is_blamed_for_what_comes_of_it(tmp_path: Path) -> None:
    """As when QEMU is killed because its guest's memory found no room in its file."""
    place = tmp_path / "small"
    place.mkdir()
    words = [*on_a_small_disk(place, "2m"), sys.executable, "-c", FILL, str(place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    said, left = done.stdout.splitlines()
    assert said.startswith(f"no space is left in {place}/templates for the template 'a guest', of which ")
    assert said.endswith("(QEMU was killed by SIGBUS)")
    assert left == f"['{'0' * 16}.lock']"


def test_what_its_disk_stands_on_is_held_with_it(store: Store, cache: Path) -> None:
    images = Store(cache / "images", what="image", limit=None)
    base = images.get(OTHER_KEY, lambda folder: create_blank(folder / "disk", 1 << 20), title="base") / "disk"
    child = store.get(KEY, lambda folder: create_overlay(base, folder / "vda.qcow2", "qcow2"), title="a guest")
    (entry,) = store.entries()
    assert entry.stands_on == {base.parent}
    assert entry.directory == child


def test_one_whose_base_was_dropped_is_made_anew(store: Store, cache: Path) -> None:
    def on(base: Path) -> Callable[[Path], None]:
        return lambda folder: create_overlay(base / "vda", folder / "vda", "qcow2")

    def blank(folder: Path) -> None:
        create_blank(folder / "vda", 1 << 20)

    base = store.get(OTHER_KEY, blank, title="base")
    child = store.get(KEY, on(base), title="child")
    assert store.get(KEY, on(base), title="child") == child
    store.drop(OTHER_KEY, base)
    new_base = store.get(OTHER_KEY, blank, title="base")
    new_child = store.get(KEY, on(new_base), title="child")
    assert new_child != child
    assert {entry.directory: entry.stands_on for entry in store.entries()}[new_child] == {new_base}
