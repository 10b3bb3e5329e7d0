from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.driver.restart.ids import Ids
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import SystemFailure


def test_the_counting_goes_on(tmp_path: Path) -> None:
    first = Ids(Root(tmp_path))
    assert [first.next(), first.next()] == [1, 2]
    assert Ids(Root(tmp_path)).next() == 3
    found = Ids(Root(tmp_path))
    found.taken(9)
    found.taken(4)
    assert found.next() == 10


def test_a_damaged_count_begins_behind_those_that_run(tmp_path: Path) -> None:
    Ids(Root(tmp_path)).next()
    (tmp_path / "run/qemu/last-id").write_text("x")
    ids = Ids(Root(tmp_path))
    ids.taken(5)
    assert ids.next() == 6


def test_an_id_that_cannot_be_noted_is_not_given(tmp_path: Path) -> None:
    (tmp_path / "run/qemu/last-id").mkdir(parents=True)
    (tmp_path / "run/qemu/last-id/x").touch()
    with pytest.raises(SystemFailure, match="Failed to create file"):
        Ids(Root(tmp_path)).next()
