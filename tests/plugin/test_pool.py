"""pool: what the next test wants is made while this one runs; and given up where another needs the room."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import pytest

from pytest_embedvm.plugin.pool import Pool
from pytest_embedvm.plugin.slots import Slots

DEADLINE_S: Final = 60.0


@dataclass
class Guest:
    """A clone without a QEMU; what is asked of it is noted."""

    root: Path
    said: list[str] = field(default_factory=list)

    @property
    def vm(self) -> Any:
        raise AssertionError("the pool leaves it alone")

    connection = vm


class Nurse:
    """Notes what is done to each guest."""

    def __init__(self) -> None:
        self.disposed: list[Guest] = []
        self.error: BaseException | None = None

    def warm_up(self, made: Any) -> None:
        made.said.append("warm up")

    def suspend(self, made: Any) -> None:
        made.said.append("suspend")

    def rouse(self, made: Any) -> None:
        made.said.append("rouse")
        if self.error:
            raise self.error

    def dispose(self, made: Any) -> None:
        self.disposed.append(made)


@dataclass
class Recipe:
    """Makes guests; one by one as `go` is released, where `held`."""

    key: str
    held: bool = False
    error: BaseException | None = None
    made: list[Guest] = field(default_factory=list)
    begun: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def make(self, root: Path) -> Any:
        assert list(root.iterdir()) == []
        assert root.stat().st_mode & 0o777 == 0o700
        self.begun.release()
        if self.held:
            assert self.go.acquire(timeout=DEADLINE_S)
        if self.error:
            raise self.error
        (root / "file").touch()
        self.made.append(Guest(root))
        return self.made[-1]


@dataclass
class Around:
    """A pool, and what is around it."""

    pool: Pool
    slots: Slots
    folder: Path
    nurse: Nurse
    memory: list[bool]

    @property
    def disposed(self) -> list[Guest]:
        return self.nurse.disposed

    def prepare(self, recipe: Recipe | None) -> None:
        self.pool.prepare(None if recipe is None else lambda: cast("Any", recipe))

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Return when the thread has done all there was, and CONDITION is true."""
        for _ in range(10):
            self.pool.settle()
            if condition():
                return
        raise AssertionError("it did not come")

    @property
    def spares(self) -> list[str]:
        return [spare.key for spare in self.pool._spares]


def pool_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "embedvm-pool"}


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Around]:
    memory = [True]
    before = pool_threads()  # of the run that this test is part of
    nurse = Nurse()
    slots = Slots(tmp_path / "slots", 3)
    pool = Pool(tmp_path / "pool", slots, nurse, size=1, may=lambda: memory[-1])
    yield Around(pool, slots, tmp_path / "pool", nurse, memory)
    pool.close()
    assert slots.holders() == []
    assert pool_threads() <= before


def test_the_next_one_is_ready_when_it_is_wanted(around: Around) -> None:
    recipe, before = Recipe("a"), pool_threads()
    assert around.pool.take(recipe) is None, "nothing was prepared"
    assert pool_threads() <= before, "nor was its thread begun"
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)
    ready = around.pool.take(recipe)
    assert ready is not None
    assert ready.made is recipe.made[0]
    assert recipe.made[0].said == ["warm up", "suspend", "rouse"]
    assert recipe.made[0].root.parent == around.folder
    assert around.pool.take(recipe) is None, "it was the only one"
    assert [(holder.owner, holder.spare) for holder in around.slots.holders()] == [("a VM made ahead", True)]
    ready.slot.release()
    around.pool.settle()
    assert (len(recipe.made), around.disposed) == (1, [])


def test_each_is_made_in_a_root_of_its_own(around: Around) -> None:
    recipe = Recipe("a")
    for _ in range(3):
        around.prepare(recipe)
        assert recipe.begun.acquire(timeout=DEADLINE_S)
        ready = around.pool.take(recipe)
        assert ready is not None
        ready.slot.release()
    assert len({guest.root for guest in recipe.made}) == 3


def test_one_that_is_being_made_is_waited_for(around: Around) -> None:
    recipe = Recipe("a", held=True)
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)
    threading.Timer(0.05, recipe.go.release).start()
    ready = around.pool.take(recipe)
    assert ready is not None
    assert ready.made is recipe.made[0]
    ready.slot.release()


def test_another_recipe_takes_its_place(around: Around) -> None:
    old, new = Recipe("old"), Recipe("new")
    around.prepare(old)
    around.wait_until(lambda: old.made)
    around.prepare(new)
    around.wait_until(lambda: new.made)
    assert around.disposed == old.made
    assert around.pool.take(old) is None
    around.prepare(Recipe("new"))
    around.pool.settle()
    ready = around.pool.take(Recipe("new"))
    assert ready is not None
    assert ready.made is new.made[0], "an equal one will do"
    ready.slot.release()


def test_nothing_wanted_makes_nothing_and_keeps_what_is_there(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)
    around.prepare(None)
    around.pool.settle()
    assert (around.spares, around.disposed) == (["a"], [])
    ready = around.pool.take(recipe)
    assert ready is not None
    ready.slot.release()
    around.prepare(None)
    around.pool.settle()
    assert len(recipe.made) == 1


def test_what_nobody_took_ends_with_the_pool(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)
    around.pool.close()
    assert around.disposed == recipe.made
    assert around.slots.holders() == []


def test_a_spare_is_given_up_for_who_waits(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)
    taken = [around.slots.take(owner="test"), around.slots.take(owner="test")]
    taken.append(around.slots.take(owner="test", timeout=DEADLINE_S))
    assert around.disposed == recipe.made
    around.prepare(recipe)
    around.pool.settle()
    assert len(recipe.made) == 1, "there is no room for another"
    for slot in taken:
        slot.release()
    around.prepare(recipe)
    around.wait_until(lambda: len(recipe.made) == 2)


def test_without_memory_nothing_is_made(around: Around) -> None:
    recipe = Recipe("a")
    around.memory.append(False)
    around.prepare(recipe)
    around.pool.settle()
    assert around.pool.take(recipe) is None
    around.memory.append(True)
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)


def test_what_fails_is_told_and_not_tried_again(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe("a", held=True, error=OSError("no more of these"))
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)
    threading.Timer(0.05, recipe.go.release).start()
    assert around.pool.take(recipe) is None, "who waited for it makes it himself"
    around.pool.settle()
    assert list(around.folder.iterdir()) == []
    assert around.slots.holders() == []
    around.prepare(recipe)
    around.pool.settle()
    assert not recipe.begun.acquire(blocking=False)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no more of these" in caplog.text
    other = Recipe("b")
    around.prepare(other)
    around.wait_until(lambda: other.made)


def test_who_is_interrupted_while_he_waits_leaves_it_to_the_thread(
    around: Around, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe("a", held=True)
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pytest_embedvm.plugin.pool.wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            around.pool.take(recipe)
    recipe.go.release()
    around.wait_until(lambda: around.disposed == recipe.made and recipe.made)
    assert around.slots.holders() == []


def test_one_that_takes_too_long_is_not_waited_for(around: Around, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_embedvm.plugin.pool.TAKE_TIMEOUT_S", 0)
    recipe = Recipe("a", held=True)
    around.prepare(recipe)
    assert recipe.begun.acquire(timeout=DEADLINE_S)
    assert around.pool.take(recipe) is None
    recipe.go.release()
    around.wait_until(lambda: around.disposed == recipe.made and recipe.made)


def test_those_that_are_ready_run_between_two_tests(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)
    around.pool.rouse()
    around.wait_until(lambda: recipe.made[0].said[-1] == "rouse")
    around.prepare(recipe)  # that test had no use for it
    around.wait_until(lambda: recipe.made[0].said[-1] == "suspend")
    around.pool.rouse()
    ready = around.pool.take(recipe)
    assert ready is not None
    assert recipe.made[0].said == ["warm up", "suspend", "rouse", "suspend", "rouse"]
    ready.slot.release()


def test_one_that_does_not_go_on_is_nobodys(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)
    around.nurse.error = OSError("it does not")
    assert around.pool.take(recipe) is None
    around.wait_until(lambda: around.disposed == recipe.made)


def test_a_plan_that_fails_is_logged(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    def plan() -> Any:
        raise ValueError("no plan")

    around.pool.prepare(plan)
    around.wait_until(lambda: "no plan" in caplog.text)
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)


def test_chores_are_done_in_order_and_before_anything_else(around: Around, caplog: pytest.LogCaptureFixture) -> None:
    done: list[object] = []

    def failing() -> None:
        raise OSError("it does not go away")

    around.pool.leave(failing)
    for number in range(3):
        around.pool.leave(lambda number=number: done.append((number, threading.current_thread().name)))  # type: ignore[misc]
    around.pool.settle()
    assert done == [(number, "embedvm-pool") for number in range(3)]
    assert "it does not go away" in caplog.text


def test_the_end_does_what_is_left_to_be_done(around: Around) -> None:
    done = []
    around.pool.leave(lambda: done.append(1))
    around.pool.close()
    assert done == [1]
    around.pool.leave(lambda: done.append(2))
    around.pool.settle()
    assert done == [1, 2], "what comes later is done at once"


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_no_pool(around: Around) -> None:
    recipe = Recipe("a")
    around.prepare(recipe)
    around.wait_until(lambda: recipe.made)
    child = os.fork()
    if child == 0:
        taken = around.pool.take(recipe)
        around.prepare(recipe)
        around.pool.rouse()
        around.pool.leave(lambda: os._exit(2))
        around.pool.close()
        os._exit(0 if taken is None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ready = around.pool.take(recipe)
    assert ready is not None
    ready.slot.release()


def test_a_pool_of_none_makes_none(tmp_path: Path) -> None:
    recipe = Recipe("a")
    pool = Pool(tmp_path, Slots(tmp_path / "slots", 1), Nurse(), size=0, may=lambda: True)
    pool.prepare(lambda: recipe)
    assert pool.take(recipe) is None
    pool.close()
    assert recipe.made == []
