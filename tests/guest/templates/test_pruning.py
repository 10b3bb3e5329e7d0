"""pruning: what leaves the cache, and what never does."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.guest.templates.entry import entries, seal
from pytest_embedvm.guest.templates.pruning import KEPT_DAYS, prune, remove
from pytest_embedvm.guest.templates.store import Store
from pytest_embedvm.qemu.image import create_blank, create_overlay
from tests.guest.templates.conftest import Other

_numbers = itertools.count()


def put(cache: Path, name: str, kib: int, age: float = 0, *, kind: str = "templates", on: Path | None = None) -> Path:
    """An entry of KIB KiB that was last used AGE seconds ago, with a disk over that of another if one is given."""
    directory = cache / kind / name
    directory.mkdir(parents=True, mode=0o700)
    (directory / "ram").write_bytes(b"r" * kib * 1024)
    create_overlay(on / "vda", directory / "vda", "qcow2") if on else create_blank(directory / "vda", 1 << 20)
    seal(directory, name, None, cache)
    os.utime(directory, (time.time() - age,) * 2)
    return directory


def names(cache: Path) -> set[str]:
    return {entry.directory.name for entry in entries(cache)}


def hold(directory: Path, stack: ExitStack) -> None:
    """As another process holds it."""
    descriptor = os.open(directory, os.O_RDONLY)
    stack.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_SH)


def test_what_was_not_used_for_longest_goes_templates_and_images_together(cache: Path) -> None:
    put(cache, "a", 256, 50)
    put(cache, "b", 256, 40, kind="images")
    put(cache, "c", 256, 30)
    put(cache, "d", 256, 20, kind="images")
    size = sum(entry.size for entry in entries(cache))
    prune(cache, size)
    assert names(cache) == {"a", "b", "c", "d"}
    prune(cache, size - 1)
    assert names(cache) == {"b", "c", "d"}
    prune(cache, size // 2)
    assert names(cache) == {"c", "d"}
    prune(cache, 0)
    assert names(cache) == set()


def test_what_was_not_used_for_a_month_goes_though_there_is_room(cache: Path) -> None:
    put(cache, "old", 4, KEPT_DAYS * 86400 + 60)
    put(cache, "new", 4, KEPT_DAYS * 86400 - 60)
    prune(cache, None)
    assert names(cache) == {"new"}


def test_what_a_living_process_was_given_stays_until_it_is_killed(cache: Path, other: Callable[..., Other]) -> None:
    holder = other("aaaa")
    holder.until("making in")
    holder.go_on()
    holder.until("got")
    put(cache, "b", 4)
    prune(cache, 0)
    assert names(cache) == {"aaaa"}
    (entry,) = entries(cache)
    assert remove([entry], cache) == [entry]
    assert entry.holders == (holder.process.pid,)
    holder.kill()
    prune(cache, 0)
    assert names(cache) == set()


def test_being_used_makes_it_young(cache: Path) -> None:
    put(cache, "a", 64, 50)
    put(cache, "b", 64, 40)
    Store(cache / "templates", what="template", limit=None).get("a", lambda _: None, title="a")
    assert [entry.key for entry in entries(cache)] == ["a", "b"]


def test_holes_take_no_room(cache: Path) -> None:
    directory = put(cache, "a", 4)
    os.truncate(directory / "ram", 1 << 40)
    (entry,) = entries(cache)
    assert 4096 <= entry.size < 1 << 20


def test_one_goes_after_what_stands_on_it(cache: Path) -> None:
    base = put(cache, "base", 64, 90, kind="images")
    middle = put(cache, "middle", 64, 80, on=base)
    put(cache, "top", 64, 10, on=middle)
    other = put(cache, "other", 64, 20)
    with ExitStack() as stack:
        hold(cache / "templates/top", stack)
        prune(cache, 0)
        assert names(cache) == {"base", "middle", "top"}
    assert not other.exists()
    found = {entry.key: entry for entry in entries(cache)}
    assert remove([found["base"], found["middle"]], cache) == [found["middle"], found["base"]]
    assert remove(found.values(), cache) == []


def test_what_is_damaged_goes_first(cache: Path) -> None:
    (put(cache, "a", 4) / "entry.json").write_text("{")
    os.truncate(put(cache, "b", 4) / "ram", 0)
    (cache / "templates/c").mkdir()
    put(cache, "d", 4, kind="images")
    (cache / "images/e").mkdir()
    (cache / "images/e/image.json").write_text(json.dumps({"name": "of an earlier version"}))
    prune(cache, None)
    assert names(cache) == {"d"}


def test_old_digests_are_forgotten(cache: Path) -> None:
    (cache / "hashes").mkdir(parents=True)
    for name, age in (("old", KEPT_DAYS + 1), ("new", 1)):
        (cache / "hashes" / name).write_text("1")
        os.utime(cache / "hashes" / name, (time.time() - age * 86400,) * 2)
    prune(cache, None)
    assert [path.name for path in (cache / "hashes").iterdir()] == ["new"]


@dataclass(frozen=True)
class One:
    kib: int
    age: int
    held: bool
    #: How many before it the one is that it stands on; 0: none.
    on: int


@given(
    st.lists(st.builds(One, st.integers(0, 64), st.integers(1, 1000), st.booleans(), st.integers(0, 3)), max_size=6),
    st.integers(0, 1 << 20),
)
def test_nothing_goes_that_is_needed_and_no_more_than_must(
    tmp_path_factory: pytest.TempPathFactory, plan: Sequence[One], limit: int
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    made: list[Path] = []
    with ExitStack() as stack:
        for number, one in enumerate(plan):
            on = made[number - one.on] if 0 < one.on <= number else None
            made.append(put(cache, f"n{number}", one.kib, one.age, on=on))
            if one.held:
                hold(made[-1], stack)
        before = entries(cache)
        prune(cache, limit)
        after = {entry.directory for entry in entries(cache)}
    gone = [entry for entry in before if entry.directory not in after]
    size = sum(entry.size for entry in before if entry.directory in after)
    assert all(not one.held for one, path in zip(plan, made, strict=True) if path not in after)
    for entry in before:
        if entry.directory in after:
            assert entry.stands_on <= after
    if gone:
        assert size + max(entry.size for entry in gone) > limit
    free = [e for e in before if e.directory in after and not e.held and not any(
        e.directory in other.stands_on for other in before if other.directory in after)]  # fmt: skip
    assert size <= limit or not free
