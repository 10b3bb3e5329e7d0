"""Which fixtures a test has, before any of them is made."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_embedvm.plugin.settings import FIXTURES


def definitions(item: pytest.Item) -> dict[str, Any]:
    """The fixtures that ITEM asks for, itself or through others, by name; of several the one that it gets."""
    info = getattr(item, "_fixtureinfo", None)
    return {name: found[-1] for name, found in info.name2fixturedefs.items() if found} if info is not None else {}


def is_ours(definition: object) -> bool:
    """Whether that is this plugin's own, and not the user's of the same name."""
    return getattr(getattr(definition, "func", None), "__module__", None) == FIXTURES
