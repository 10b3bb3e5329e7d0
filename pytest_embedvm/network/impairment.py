"""What is wrong with one direction of a link: which frames are lost, which come later. It holds no clock."""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import InvalidArgument

#: How much may be under way in one direction of a slow link; what comes then is lost, as in a router.
UNDER_WAY_BYTES: Final = 16 * 1024 * 1024
#: A frame that is under way for longer is a mistake of the caller's, who thinks of milliseconds.
LONGEST_DELAY: Final = 600.0


@dataclass(frozen=True, kw_only=True)
class Impairment:
    """Seconds of delay, each frame's own by up to `jitter` more or less; and shares of frames, 0 to 1.

    `loss` never arrives, `duplicate` arrives twice, `reorder` overtakes the delayed ones. `seed` and the link's name
    decide which frames: the same ones in each run. (The words are those of Linux's netem.)
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """:raise InvalidArgument: when a value cannot be one; naming it."""
        for name in ("loss", "duplicate", "reorder"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise _invalid(f"{name}={share!r} is no share of the frames: it must be between 0 and 1")
        if not 0 <= self.delay <= LONGEST_DELAY:
            raise _invalid(f"delay={self.delay!r} must be between 0 and {LONGEST_DELAY:g} seconds")
        if not 0 <= self.jitter <= self.delay:
            raise _invalid(f"jitter={self.jitter!r} must be between 0 and the delay, which is {self.delay:g} seconds")
        if self.reorder and not self.delay:
            raise _invalid(f"reorder={self.reorder!r} needs a delay: there is nothing to overtake")

    @property
    def harmless(self) -> bool:
        """Whether frames pass as if it were not there."""
        return not (self.delay or self.loss or self.duplicate)


def _invalid(detail: str) -> InvalidArgument:
    return InvalidArgument(detail, origin=ErrorDomain.NETWORK)


class Lane:
    """One direction of a link, and the frames that are under way in it."""

    def __init__(self, name: str) -> None:
        """NAME, with the seed, decides which frames are lost."""
        self._name = name
        self._under_way: list[tuple[float, int, bytes]] = []
        self._bytes = 0
        self._numbers = itertools.count()
        self._last = 0.0
        #: How many frames were lost, by intention or because too much was under way.
        self.lost = 0
        self.impairment = Impairment()

    @property
    def impairment(self) -> Impairment:
        return self._impairment

    @impairment.setter
    def impairment(self, impairment: Impairment) -> None:
        """What is under way stays so; `seed` begins anew."""
        self._impairment = impairment
        self._random = random.Random(f"{impairment.seed} {self._name}")  # noqa: S311 - no secret

    @property
    def idle(self) -> bool:
        """Whether frames pass at once, and in order."""
        return self._impairment.harmless and not self._under_way

    @property
    def next(self) -> float | None:
        """When the next frame arrives; None when none is under way."""
        return self._under_way[0][0] if self._under_way else None

    def enter(self, frame: bytes, now: float) -> None:
        """FRAME begins its way."""
        wrong = self._impairment
        if self._hits(wrong.loss):
            self.lost += 1
            return
        for _ in range(1 + self._hits(wrong.duplicate)):
            self._send(frame, now)

    def _hits(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _send(self, frame: bytes, now: float) -> None:
        if self._bytes + len(frame) > UNDER_WAY_BYTES:
            self.lost += 1
            return
        wrong = self._impairment
        when = now
        if not self._hits(wrong.reorder):
            own = self._random.uniform(-wrong.jitter, wrong.jitter) if wrong.jitter else 0.0
            when = self._last = max(self._last, now + wrong.delay + own)
        heapq.heappush(self._under_way, (when, next(self._numbers), frame))
        self._bytes += len(frame)

    def arrived(self, now: float) -> list[bytes]:
        """The frames that are there by NOW, in their order."""
        found = []
        while self._under_way and self._under_way[0][0] <= now:
            found.append(heapq.heappop(self._under_way)[2])
        self._bytes -= sum(map(len, found))
        return found

    def clear(self) -> None:
        """Lose what is under way."""
        self._under_way.clear()
        self._bytes = 0
