"""What was measured, beside what is promised."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """The most, or with `least` the least, that a figure may be."""

    value: float
    unit: str
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.value:g} {self.unit}"

    def met(self, value: float) -> bool:
        return value >= self.value if self.least else value <= self.value


#: What the project promises: in multiples of S, or in the figure's own unit.
GOALS = {
    "pooled: setup": Goal(0.6, "S"),
    "unpooled: setup": Goal(5, "S"),
    "booted: setup": Goal(60, "S"),
    "pooled: teardown": Goal(0.3, "S"),
    "unpooled: teardown": Goal(0.3, "S"),
    "vm.run, warm, p99": Goal(20, "ms"),
    "vm.run, warm": Goal(5, "ms"),
    "1 MiB out of the guest": Goal(80, "ms"),
    "1 MiB into the guest": Goal(80, "ms"),
    "memory of a clone, PSS": Goal(35, "MB"),
    "clones a second, to a first answer": Goal(30, "/s", least=True),
    "200 tests, -n 4: of tests x CPU / cores": Goal(1.3, "x"),
}


@dataclass
class Figures:
    """A table of figures by name, and what pictures are drawn of."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Multiples of S of each test, by name.
    series: dict[str, list[float]] = field(default_factory=dict)
    #: Clones that were alive at once, and what they cost.
    memory: list[dict[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, *, s: float | None = None) -> None:
        """:param s: what S was beside it, in the same unit."""
        row: dict[str, Any] = {"value": value, "unit": unit}
        if s is not None:
            row["ratio"] = value / s
        goal = GOALS.get(name)
        if goal is not None:
            row |= {"goal": str(goal), "met": goal.met(row["ratio"] if goal.unit == "S" else value)}
        self.rows[name] = row

    def table(self) -> str:
        lines = [f"{'median of each':52} {'':>9} {'':5} {'':>9}   goal"]
        for name, row in self.rows.items():
            ratio = f"{row['ratio']:.2f} S" if "ratio" in row else ""
            met = {True: "met", False: "NOT MET", None: ""}[row.get("met")]
            figure = f"{row['value']:9.2f} {row['unit']:5} {ratio:>9}"
            lines.append(f"{name:52} {figure}   {row.get('goal', ''):8} {met}".rstrip())
        return "\n".join([*lines, *self.notes])

    def as_json(self) -> dict[str, Any]:
        return {"rows": self.rows, "series": self.series, "memory": self.memory, "notes": self.notes}
