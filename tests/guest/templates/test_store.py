"""store: made once, held while it is used, gone when it is too old or too much."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.guest.templates.store import Store

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache/templates", what="template", limit=None)


def test_it_is_made_once(store: Store) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "ram").write_bytes(b"ram")

    first = store.get(KEY, make, title="a guest")
    assert (first / "ram").read_bytes() == b"ram"
    assert store.get(KEY, make, title="a guest") == first
    assert len(made) == 1
    (entry,) = store.entries()
    assert (entry.key, entry.kind, entry.title, entry.held) == (KEY, "template", "a guest", True)
