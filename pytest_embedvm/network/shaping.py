"""How much passes one direction of a link, and when: a token bucket. It holds no clock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.units import KIB, Rate

#: What may wait for its turn, in bytes; what comes then is lost, as at a router.
QUEUE_BYTES: Final = 256 * KIB
#: How much passes at peak speed at once: the longest frame.
PEAK_BYTES: Final = 64 * KIB


@dataclass
class _Bucket:
    """Fills by `rate` bytes a second, up to `depth`; what is taken beyond that is owed."""

    rate: float
    depth: float
    level: float
    filled: float = 0.0

    def take(self, size: int, now: float) -> float:
        """When SIZE bytes that are taken NOW are covered."""
        self.level = min(self.depth, self.level + (now - self.filled) * self.rate) - size
        self.filled = now
        return now - self.level / self.rate if self.level < 0 else now


class Shaping:
    """One direction of a link that is limited to a rate, and the frames that wait for their turn."""

    def __init__(self, rate: Rate, now: float = 0.0) -> None:
        # libvirt: virNetDevBandwidthSet; without a burst, a second of the average
        depth = float((rate.burst or rate.average) * KIB)
        self._buckets = [_Bucket(rate.average * KIB, depth, depth, now)]
        if rate.peak:
            self._buckets.append(_Bucket(rate.peak * KIB, PEAK_BYTES, PEAK_BYTES, now))
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        #: How many frames were lost because too much waited.
        self.lost = 0

    @property
    def idle(self) -> bool:
        """Never: each frame is counted."""
        return False

    @property
    def next(self) -> float | None:
        """When the next frame may pass; None when none waits."""
        return self._waiting[0][0] if self._waiting else None

    def enter(self, frame: bytes, now: float) -> None:
        """FRAME is there, and wants to pass."""
        if self._bytes + len(frame) > QUEUE_BYTES:
            self.lost += 1
            return
        when = max(bucket.take(len(frame), now) for bucket in self._buckets)
        self._waiting.append((max(when, self._waiting[-1][0] if self._waiting else now), frame))
        self._bytes += len(frame)

    def arrived(self, now: float) -> list[bytes]:
        """The frames that may pass by NOW, in their order."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(self._waiting.popleft()[1])
        self._bytes -= sum(map(len, found))
        return found

    def clear(self) -> None:
        """Lose what waits."""
        self._waiting.clear()
        self._bytes = 0
