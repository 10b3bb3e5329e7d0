"""What is made ahead for the tests of this process: which test is given which clone, and how it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from pytest_embedvm.api.killing import kill_machines
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.guest import renewal
from pytest_embedvm.libvirt import libvirtError
from pytest_embedvm.plugin import memory
from pytest_embedvm.plugin.definitions import definitions
from pytest_embedvm.plugin.leaks import leftovers
from pytest_embedvm.plugin.pool import Pool
from pytest_embedvm.plugin.recipe import Recipe, recipe_of
from pytest_embedvm.plugin.removal import close, remove
from pytest_embedvm.plugin.settings import SETTINGS, VM_FIXTURE
from pytest_embedvm.plugin.slots import Slots
from pytest_embedvm.plugin.spare import Made, Ready

#: pytest shows the line that called, not these.
__tracebackhide__ = True

_PLANNED: Final = pytest.StashKey["_Planned | None"]()

#: So many tests at most, before it is tried again whether they are long enough for something to be made meanwhile.
MOST_SKIPPED: Final = 16

#: So much memory stays free: a VM that nobody needs yet is not to take it.
SPARED_BYTES: Final = 512 * memory.MIB


@dataclass(frozen=True)
class _Planned:
    """What a test will want, and what that depends on, as it looked then."""

    recipe: Recipe
    looks: dict[Path, tuple[int, ...]]


class Handed:
    """A clone that a test has been given before it asked; the test's until it is left to be taken away."""

    def __init__(self, ready: Ready, in_use: set[str], leave: Callable[[Callable[[], object]], bool]) -> None:
        """:param in_use: what the root had in use when the clone was ready.
        :param leave: has something done behind the test's back; False where the test has to see to it.
        """
        self.made = ready.made
        self.slot = ready.slot
        self._in_use = in_use
        self._leave = leave

    def leave(self, taken_away: Callable[[], object]) -> bool:
        """End it now, and have what is left of it TAKEN_AWAY behind the test's back.

        False, where it has to be ended and looked after as any other: a root that has more in use than it had, one
        that somebody else has open, the last one of a session.
        """
        if set(leftovers(self.made.root)) - self._in_use:
            return False
        self.made.vm.close()
        try:
            return kill_machines(self.made.connection) and self._leave(taken_away)
        except libvirtError:  # the test has closed it
            return False


class Ahead:
    """The clones that wait for the tests of one process, and what those tests leave to be taken away."""

    def __init__(self, folder: Path, slots: Slots, size: int) -> None:
        """:param folder: where the roots of clones are.
        :param size: how many clones are kept ready.
        """
        self._folder = folder
        #: What each clone's root had in use when it was ready.
        self._in_use: dict[Path, set[str]] = {}
        #: What was found when its test was not there any more to be told.
        self._stayed: list[str] = []
        self._is_last = False
        #: How many tests are not prepared for, and how many the next time that nothing is ready in time.
        self._skipped = 0
        self._to_skip = 1
        self._pool = Pool(folder, slots, self, size=size, may=lambda: memory.available() > SPARED_BYTES)

    # What hooks and fixtures ask

    def prepare(self, item: pytest.Item | None) -> None:
        """A test has begun, and ITEM is next, if any: begin with what that will want."""
        self._is_last = item is None
        if item is None or VM_FIXTURE not in definitions(item):
            return self._pool.prepare(None)
        if self._skipped:
            self._skipped -= 1
            return self._pool.prepare(None)
        item.stash[_PLANNED] = None
        return self._pool.prepare(partial(_plan, item))

    def over(self) -> None:
        """A test is over, and another may begin."""
        self._pool.rouse()

    def take(self, item: pytest.Item) -> Handed | None:
        """What waits for ITEM; None where nothing does, or what it is made of has changed since."""
        planned = item.stash.get(_PLANNED, None)
        if planned is not None and any(_look(path) != before for path, before in planned.looks.items()):
            planned = None
        ready = self._pool.take(planned.recipe if planned else None)
        if ready is None:
            self._give_up_for_a_while(item)
            return None
        self._to_skip = 1
        ready.slot.give(item.nodeid)
        return Handed(ready, self._in_use.pop(ready.made.root), self._leave)

    def _give_up_for_a_while(self, item: pytest.Item) -> None:
        """Where tests are so short that nothing is ready in time, what is made for them only costs them time."""
        if _PLANNED in item.stash and not self._skipped:
            self._skipped = self._to_skip
            self._to_skip = min(2 * self._to_skip, MOST_SKIPPED)

    def give_back(self, handed: Handed) -> None:
        """The test that was given HANDED has not used it."""
        self._pool.leave(partial(self.take_away, handed, "a test that failed before it used its VM"))

    def _leave(self, chore: Callable[[], object]) -> bool:
        if not self._is_last:
            self._pool.leave(chore)
        return not self._is_last

    def take_away(self, handed: Handed, owner: str) -> None:
        """What is left of a clone that OWNER had."""
        self._remove(handed.made, owner)
        handed.slot.release()

    def _remove(self, made: Made, owner: str) -> None:
        stayed: list[str] = []
        try:
            made.vm.close()
            close(made.connection)
            remove(made.root, stayed, ours=True)
        except (libvirtError, EmbedError, OSError) as error:
            stayed.append(f"{made.root}: {error}")
        if stayed:
            self._stayed.append(f"{'; '.join(stayed)} (left by {owner})")

    def settle(self) -> None:
        """Where no test will follow: wait until all that was left is taken away."""
        if self._is_last:
            self._pool.settle()

    def complaints(self) -> list[str]:
        """What has been found to have stayed since this was asked last, a sentence each."""
        found, self._stayed = self._stayed, []
        return found

    def close(self) -> list[str]:
        """End all that waits, take away all that was left; return `complaints`.

        :raise OperationTimeout: when that takes too long.
        """
        self._pool.close()
        if self._folder.exists() and not any(self._folder.iterdir()):
            self._folder.rmdir()
        return self.complaints()

    # What is done to a clone that waits, on the pool's thread

    def warm_up(self, made: Made) -> None:
        made.vm.wait_ready()
        made.vm.run("true")
        made.vm.run(["true"])
        renewal.set_clock(made.vm)
        self._in_use[made.root] = set(leftovers(made.root))

    def suspend(self, made: Made) -> None:
        made.vm.domain.suspend()

    def rouse(self, made: Made) -> None:
        made.vm.domain.resume()
        renewal.set_clock(made.vm)

    def dispose(self, made: Made) -> None:
        self._in_use.pop(made.root, None)
        self._remove(made, "a VM that no test has used")


def _plan(item: pytest.Item) -> Recipe | None:
    """What ITEM will want; noted with it."""
    recipe = recipe_of(item, item.config.stash[SETTINGS])
    if recipe is None:
        del item.stash[_PLANNED]
    else:
        item.stash[_PLANNED] = _Planned(recipe, {path: _look(path) for path in recipe.files})
    return recipe


def _look(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
