"""How fast and how small clones are, against bare QEMU and cold boots, measured in one run.

Usage: python -m bench.clone [--runs N] [--alive N] [--tests N] [--only PART …] [--json FILE]

Prints a table of medians and of ratios to S, which is bare QEMU from spawn to QMP ready, measured beside them, with
what the project promises and whether that was met. Machines are noisy: compare ratios, never milliseconds of two runs.

The parts: `vm` what is done to one VM; `fixture` the fixture `vm` in a suite that pytest runs: from a clone that was
made ahead, from one that was not, and booted; `alive` what many clones cost in memory; `rate` how many are made in a
second; `suite` N tests with a VM each under `-n 4`, and what the same takes with a boot each, by this driver and by
real libvirt's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from bench import cold
from bench.driver import Samples, bare
from bench.figures import Figures
from bench.memory import alive
from bench.rate import rate
from bench.suite import Run, Suite
from bench.template import bare_clone, clone, end, make_template, private_root
from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM

S = "S: bare QEMU, spawn to QMP ready"
CORES = WORKERS = 4
MIB = os.urandom(1 << 20)
PARTS = ("vm", "fixture", "alive", "rate", "suite")


def one(samples: Samples, connection: libvirt.virConnect, template: Path) -> None:
    """A clone's life, without pytest."""
    with samples.time("clone, to its first answer"):
        vm = bare_clone(connection, template, "bare")
    end(vm)
    with samples.time("clone, renewed, to its first vm.run"):
        vm = clone(connection, template, "vm")
        vm.run("true")
    for _ in range(20):
        with samples.time("vm.run, warm"):
            vm.run("true")
    files(samples, vm)
    with samples.time("destroy a clone"):
        end(vm)


def files(samples: Samples, vm: VM) -> None:
    vm.write_bytes("/tmp/warm", MIB[: 1 << 16])
    vm.read_bytes("/tmp/warm")
    with samples.time("1 MiB into the guest"):
        vm.write_bytes("/tmp/data", MIB)
    with samples.time("1 MiB out of the guest"):
        back = vm.read_bytes("/tmp/data")
    if back != MIB:
        raise SystemExit("the guest gave back other bytes than it was given")


def vm_part(figures: Figures, template: Path, runs: int) -> None:
    samples = Samples()
    with private_root() as (_, connection):
        one(Samples(), connection, template)  # what is made once a process is made
        for _ in range(runs):
            bare(samples)
            one(samples, connection, template)
    s = samples.median(S)
    for name, values in samples.of.items():
        figures.add(name, statistics.median(values), "ms", s=s)
    tail = statistics.quantiles(samples.of["vm.run, warm"], n=100, method="inclusive")[98]
    figures.add("vm.run, warm, p99", tail, "ms", s=s)


def fixture_part(figures: Figures, suite: Suite, runs: int) -> None:
    """What a test sees of `vm`; the first of each run makes a template, or finds no clone that is ready."""
    for name, options, count, pause in (
        ("pooled", (), runs, 1.5),
        ("unpooled", ("--embedvm-pool", "0"), runs, 0.5),
        ("booted", ("--embedvm-boot", "cold"), max(3, runs // 3), 0.0),
    ):
        run = suite.run(count + 1, *options, pause=pause, beside=True)
        tests = [test for test in run.tests[1:] if name != "pooled" or "ahead" in test["origin"]]
        if not tests:
            raise SystemExit("no clone was ready when a test asked for it")
        s = statistics.median(test["s"] for test in tests)
        for what in ("setup", "teardown"):
            values = [test[what] for test in tests]
            figures.add(f"{name}: {what}", statistics.median(values), "ms", s=s)
            figures.series[f"{name}: {what}"] = [test[what] / test["s"] for test in tests]
        figures.add(f"{name}: CPU time of a test", statistics.median(run.of("cpu")[1:]), "ms")


def alive_part(figures: Figures, template: Path, clones: int) -> None:
    seen = alive(template, clones)
    last = seen[-1]
    figures.add("memory of a clone, PSS", last.pss_mb / last.clones, "MB")
    figures.add("memory of a clone, MemAvailable", last.available_mb / last.clones, "MB")
    figures.memory = [step._asdict() for step in seen]


def rate_part(figures: Figures, template: Path) -> None:
    figures.add("clones a second, to a first answer", rate(template, WORKERS, 20, bare=True), "/s")
    figures.add("clones a second, renewed", rate(template, WORKERS, 20), "/s")


def suite_part(figures: Figures, suite: Suite, tests: int) -> None:
    few = max(2 * WORKERS, tests // 10)
    run = suite.run(tests, workers=WORKERS)
    check(run, tests)
    alone = suite.run(12)  # one worker: what a clone costs, with what is made ahead of time
    cost = statistics.median(alone.of("cpu")[2:]) / 1000
    figures.add(f"{tests} tests, -n {WORKERS}: wall", run.wall, "s")
    figures.add(f"{tests} tests, -n {WORKERS}: of tests x CPU / cores", run.wall / (tests * cost / CORES), "x")
    each = run.span / tests
    figures.add("a test of it", each * 1000, "ms")
    booted = suite.run(few, "--embedvm-boot", "cold", workers=WORKERS)
    figures.add(f"the same booted, {few} tests: times as long", booted.span / few / each, "x")
    seconds, why = cold.by_libvirt(WORKERS, few // WORKERS)
    if seconds is None:
        figures.notes.append(f"real libvirt was not measured: {why}")
    else:
        figures.add(f"booted by libvirt, {few} VMs: times as long", seconds / each, "x")


def check(run: Run, tests: int) -> None:
    """What is made once was made once, and nothing is left.

    :raise SystemExit: when that is not so.
    """
    made = {"templates": run.templates, "probes": run.probes}
    wrong = [f"{count} {what} for {tests} tests" for what, count in made.items() if count != 1]
    wrong += [f"left: {what}" for what in run.left]
    if wrong:
        raise SystemExit("; ".join(wrong))


def measure(figures: Figures, folder: Path, arguments: argparse.Namespace) -> None:
    parts, template = frozenset(arguments.only), folder / "template"
    if parts & {"vm", "alive", "rate"}:
        make_template(template)
    if "vm" in parts:
        vm_part(figures, template, arguments.runs)
    if "fixture" in parts:
        fixture_part(figures, Suite(folder / "fixture"), arguments.runs)
    if "alive" in parts:
        alive_part(figures, template, arguments.alive)
    if "rate" in parts:
        rate_part(figures, template)
    if "suite" in parts:
        suite_part(figures, Suite(folder / "suite"), arguments.tests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="rounds, and tests of a suite (default: 11)")
    parser.add_argument("--alive", type=int, default=50, help="clones alive at once (default: 50)")
    parser.add_argument("--tests", type=int, default=200, help="tests under -n 4 (default: 200)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE, for bench/plot.py")
    arguments = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory(prefix="embedvm-bench-") as folder:
        measure(figures, Path(folder), arguments)
    print(figures.table())
    if arguments.json:
        arguments.json.write_text(json.dumps(figures.as_json(), indent=2) + "\n")


if __name__ == "__main__":
    main()
