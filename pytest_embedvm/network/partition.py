"""Who does not hear whom on a network that is torn. Ports are known by their names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Fault(Protocol):
    """What keeps frames from some ports."""

    def blocks(self, source: str, target: str) -> bool:
        """Whether what comes in at SOURCE does not go out at TARGET."""


class Partition:
    """Only ports of one side hear each other; those that no side names are a side of their own."""

    def __init__(self, sides: Iterable[Iterable[str]]) -> None:
        self._sides = {name: number for number, side in enumerate(sides, start=1) for name in side}

    def blocks(self, source: str, target: str) -> bool:
        return self._sides.get(source, 0) != self._sides.get(target, 0)


class Deaf:
    """The targets do not hear the sources; these may hear the targets."""

    def __init__(self, sources: Iterable[str], targets: Iterable[str]) -> None:
        self._sources, self._targets = frozenset(sources), frozenset(targets)

    def blocks(self, source: str, target: str) -> bool:
        return source in self._sources and target in self._targets
