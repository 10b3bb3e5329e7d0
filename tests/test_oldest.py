"""tests/oldest.txt, on which `tox -e oldest` runs, is pyproject.toml's lower bounds."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TESTS = Path(__file__).parent


def versions(requirements: list[str]) -> dict[str, tuple[str, str]]:
    """Name to (operator, version without trailing zeros)."""
    found = {}
    for requirement in requirements:
        match = re.fullmatch(r"([\w.-]+)(>=|==)([\d.]+)", requirement)
        assert match, f"{requirement!r} is no name with one bound"
        found[match[1]] = (match[2], re.sub(r"(\.0)+$", "", match[3]))
    return found


def test_oldest_is_the_lower_bound() -> None:
    project = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    allowed = versions(project["dependencies"] + extras["test"] + extras["kernel"])
    lines = (TESTS / "oldest.txt").read_text().splitlines()
    tested = versions([line for line in lines if not line.startswith("#")])
    assert {name: (">=", version) for name, (_, version) in tested.items()} == allowed
    assert {operator for operator, _ in tested.values()} == {"=="}
