"""A clone that waits for its test: what it is made by, and what is done to it meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM
from pytest_embedvm.plugin.slots import Slot


class Made(Protocol):
    """A clone in a root of its own."""

    @property
    def connection(self) -> libvirt.virConnect: ...

    @property
    def vm(self) -> VM: ...

    @property
    def root(self) -> Path: ...


class Recipe(Protocol):
    """How a clone is made; two with the same key make the same."""

    @property
    def key(self) -> str: ...

    def make(self, root: Path) -> Made: ...


class Keeper(Protocol):
    """What is done to a clone that waits."""

    def warm_up(self, made: Made) -> object:
        """Have the guest do once what tests do first: an emulator is slow the first time."""

    def suspend(self, made: Made) -> object:
        """Let the guest take no time until it is roused."""

    def rouse(self, made: Made) -> object:
        """Let it run, and tell it how late it is."""

    def dispose(self, made: Made) -> object:
        """End it, nobody wanted it, and remove its root; must not raise."""


@dataclass(frozen=True)
class Ready:
    """A clone that was made ahead and runs, and the slot it lives in: both are the taker's."""

    made: Made
    slot: Slot


#: Tells what the next test wants; asked on the pool's thread.
Plan = Callable[[], Recipe | None]


@dataclass(eq=False)
class Spare:
    """One that is ready, or is being made."""

    key: str
    future: Future[Ready] = field(default_factory=Future)
    #: Done when its guest runs and knows the time; None while it is suspended.
    roused: Future[object] | None = None
    #: Nobody will take it.
    unwanted: bool = False
    #: Held while it is roused or suspended.
    changing: threading.Lock = field(default_factory=threading.Lock)
