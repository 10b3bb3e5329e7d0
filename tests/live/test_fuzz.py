"""Whatever a domain's XML says, it is refused or it starts, and nothing stays; bench/fuzz.py does more of this."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.fuzz import Fuzz, assembled, damaged, grown


@pytest.fixture
def fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fuzz]:
    monkeypatch.chdir(tmp_path)
    fuzz = Fuzz(tmp_path)
    yield fuzz
    fuzz.close()


@pytest.mark.parametrize("case", [damaged, grown, assembled])
@settings(max_examples=120, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_domain_is_refused_or_starts(fuzz: Fuzz, case: Callable[[random.Random], str], data: st.DataObject) -> None:
    assert fuzz.run(case(data.draw(st.randoms(use_true_random=False)))) == []
