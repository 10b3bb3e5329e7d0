"""A suite that is killed leaves no process, and the next run passes; bench/kill.py does this two hundred times."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.kill import Bench, Moment

pytest.importorskip("xdist")

#: About how long a run takes; a moment after its end is one, too.
WHOLE_S = 4.0
#: On a busy host, too, and less than the 5 s after which execnet would interrupt the workers' tests.
LIMIT_S = 3.0
MOMENTS = [
    Moment(0, "controller", cold=True, guests=False, part=0.4),
    Moment(1, "controller", cold=False, guests=False, part=0.6),
    Moment(3, "group", cold=False, guests=False, part=0.5),
    Moment(4, "worker", cold=False, guests=False, part=0.6),
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment.victim}-{moment.number}")
def test_killed_at_a_moment(tmp_path: Path, moment: Moment) -> None:
    bench = Bench(tmp_path, hold=0.3, limit_s=LIMIT_S)
    bench.whole_s[False] = WHOLE_S
    outcome = bench.kill(moment)
    assert outcome.left == []
    assert outcome.wrong == []
    assert outcome.next_passed
