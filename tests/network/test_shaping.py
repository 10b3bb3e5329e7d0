from __future__ import annotations

import pytest

from pytest_embedvm.network import shaping
from pytest_embedvm.network.shaping import Shaping
from pytest_embedvm.units import KIB, Rate

FRAME = bytes(KIB)


def passing(way: Shaping, until: float) -> list[float]:
    """When the frames that wait pass, at the earliest, up to UNTIL."""
    times = []
    while way.next is not None and way.next <= until:
        now = way.next
        times += [now] * len(way.arrived(now))
    return times


def enter(way: Shaping, count: int, now: float = 0.0) -> None:
    for _ in range(count):
        way.enter(FRAME, now)


def test_a_burst_passes_at_once_and_the_rest_by_the_average() -> None:
    way = Shaping(Rate(10, burst=5))
    enter(way, 25)
    times = passing(way, 100)
    assert times[:5] == [0.0] * 5
    assert times[5:] == pytest.approx([n / 10 for n in range(1, 21)])
    assert way.next is None


def test_a_burst_passes_at_peak_speed() -> None:
    way = Shaping(Rate(10, peak=1000, burst=200))
    enter(way, 200)
    times = passing(way, 100)
    assert times[63] == 0.0
    assert times[-1] == pytest.approx((200 - 64) / 1000)


def test_what_was_not_used_is_there_later_but_not_more_than_a_burst() -> None:
    way = Shaping(Rate(10))  # a second's worth
    enter(way, 10)
    assert passing(way, 0) == [0.0] * 10
    enter(way, 11, now=100)
    times = passing(way, 200)
    assert times == pytest.approx([100.0] * 10 + [100.1])


def test_what_does_not_fit_in_the_queue_is_lost() -> None:
    way = Shaping(Rate(1, burst=1))
    most = shaping.QUEUE_BYTES // KIB
    enter(way, most + 7)
    assert way.lost == 7
    assert len(passing(way, 1e9)) == most
    enter(way, 1, now=1e9)
    way.clear()
    assert way.next is None
    assert not way.idle
