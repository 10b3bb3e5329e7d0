"""How fast and how small clones are, against bare QEMU, measured in one run.

Usage: python -m bench.clone [--runs N] [--alive N] [--json FILE]

Prints a table of medians in milliseconds and of ratios to S, which is bare QEMU from spawn to QMP ready, measured in
the same rounds, with what the project promises and whether that was met. Machines are noisy: compare ratios, never
milliseconds of two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.driver import Samples, bare
from bench.memory import Alive, alive
from bench.rate import rate
from bench.template import clone, end, make_template, private_root
from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM

S = "S: bare QEMU, spawn to QMP ready"
CLONE, ANSWER = "clone, to the first vm.run", "clone, to the first answer"
RUN, TEARDOWN = "vm.run, warm", "teardown of a clone"
OUT, IN = "1 MiB out of the guest", "1 MiB into the guest"
MEMORY, RATE = "memory of a clone, many alive", "clones a second, over 4 workers"

WORKERS = 4

MIB = os.urandom(1 << 20)


class Goal(NamedTuple):
    """The most, or with `least` the least, that a figure may be."""

    value: float
    unit: str
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.value:g} {self.unit}"

    def met(self, value: float) -> bool:
        return value >= self.value if self.least else value <= self.value


#: What the project promises: in multiples of S, or in a unit of their own.
GOALS = {
    CLONE: Goal(5, "S"),
    TEARDOWN: Goal(0.3, "S"),
    RUN: Goal(5, "ms"),
    f"{RUN}, p99": Goal(20, "ms"),
    OUT: Goal(80, "ms"),
    IN: Goal(80, "ms"),
    MEMORY: Goal(35, "MB"),
    RATE: Goal(30, "/s", least=True),
}


def one(samples: Samples, connection: libvirt.virConnect, template: Path) -> None:
    """A clone's life."""
    with samples.time(CLONE):
        with samples.time(ANSWER):
            vm = clone(connection, template, "vm")
            vm.wait_ready()
        vm.run("true")
    for _ in range(20):
        with samples.time(RUN):
            vm.run("true")
    files(samples, vm)
    with samples.time(TEARDOWN):
        end(vm)


def files(samples: Samples, vm: VM) -> None:
    vm.write_bytes("/tmp/warm", MIB[: 1 << 16])
    vm.read_bytes("/tmp/warm")
    with samples.time(IN):
        vm.write_bytes("/tmp/data", MIB)
    with samples.time(OUT):
        back = vm.read_bytes("/tmp/data")
    if back != MIB:
        raise SystemExit("the guest gave back other bytes than it was given")


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[98]


def rounds(samples: Samples, template: Path, runs: int) -> None:
    with private_root() as (_, connection):
        one(Samples(), connection, template)  # what is made once a process is made
        for _ in range(runs):
            bare(samples)
            one(samples, connection, template)


def counted(template: Path, clones: int) -> tuple[dict[str, float], list[Alive]]:
    """Figures that are no durations, by name; and the memory on the way to CLONES."""
    seen = alive(template, clones)
    last = seen[-1]
    return {
        MEMORY: last.pss_mb / last.clones,
        f"{MEMORY}, by MemAvailable": last.available_mb / last.clones,
        RATE: rate(template, WORKERS, 20),
    }, seen


def report(samples: Samples, numbers: dict[str, float]) -> dict[str, dict[str, Any]]:
    s = samples.median(S)
    rows = {name: row(name, samples.median(name), "ms", s) for name in samples.of}
    rows[f"{RUN}, p99"] = row(f"{RUN}, p99", p99(samples.of[RUN]), "ms", s)
    return rows | {
        name: row(name, value, GOALS[name].unit if name in GOALS else "MB") for name, value in numbers.items()
    }


def row(name: str, value: float, unit: str, s: float | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value, "unit": unit}
    if s is not None:
        found["ratio"] = value / s
    if name in GOALS:
        goal = GOALS[name]
        found |= {"goal": str(goal), "met": goal.met(value / s if s and goal.unit == "S" else value)}
    return found


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = [f"{'median of each':40} {'':>14} {'':>8}   {'goal':8}"]
    for name, found in rows.items():
        ratio = f"{found['ratio']:6.2f} S" if "ratio" in found else ""
        met = {True: "met", False: "NOT MET", None: ""}[found.get("met")]
        lines.append(f"{name:40} {found['value']:9.2f} {found['unit']:4} {ratio:>8}   {found.get('goal', ''):8} {met}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="rounds (default: 11)")
    parser.add_argument("--alive", type=int, default=50, help="clones alive at once (default: 50)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE, for bench/plot.py")
    arguments = parser.parse_args()
    samples = Samples()
    with tempfile.TemporaryDirectory(prefix="embedvm-bench-") as folder:
        template = Path(folder) / "template"
        make_template(template)
        rounds(samples, template, arguments.runs)
        numbers, seen = counted(template, arguments.alive)
    rows = report(samples, numbers)
    print(table(rows))
    if arguments.json:
        found = {"rows": rows, "samples": samples.of, "memory": [step._asdict() for step in seen]}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
