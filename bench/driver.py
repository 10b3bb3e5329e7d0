#!/usr/bin/env python3
"""How fast the driver is, against bare QEMU and against real libvirt's embed driver, measured in one run.

Usage: bench/driver.py [--runs N] [--boots N] [--json FILE]

Prints a table of medians in milliseconds and of ratios to S, which is bare QEMU from spawn to QMP ready, measured in
the same rounds. Machines are noisy: compare ratios, never milliseconds of two runs.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pytest_embedvm import libvirt
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.guest import VM, domain_xml
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.loop import loop_thread
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.cache import default_cache_dir
from pytest_embedvm.qemu.monitor import Monitor
from pytest_embedvm.qemu.probe import probe
from pytest_embedvm.qemu.process import Process

QEMU = find_binary()
PAUSED = libvirt.VIR_DOMAIN_START_PAUSED
XML = f"""
<domain type='qemu'>
  <name>bench</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><emulator>{QEMU}</emulator><controller type='usb' model='none'/><memballoon model='none'/></devices>
</domain>
"""
#: What the project promises, in multiples of S (of bare quit for destroy).
GOALS = {"open+create": 1.5, "probe": 8.0, "boot to vm.run": 60.0, "destroy": 2.0}

LIBVIRT = Path(__file__).with_name("libvirt_embed.py")


@dataclass
class Samples:
    """Milliseconds of each measure, by name."""

    of: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(name, (time.perf_counter() - start) * 1000)

    def add(self, name: str, milliseconds: float) -> None:
        self.of.setdefault(name, []).append(milliseconds)

    def median(self, name: str) -> float:
        return statistics.median(self.of[name])


async def _spawn_bare() -> tuple[Process, Monitor]:
    ours, theirs = socket.socketpair()
    with theirs:
        words = [str(QEMU), "-M", "q35", "-nodefaults", "-display", "none", "-S", "-accel", "tcg"]
        words += ["-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"]
        process = Process.spawn(words, pass_fds=[theirs.fileno()])
    return process, await Monitor.connect(ours, "bench")


async def _quit_bare(process: Process, monitor: Monitor) -> None:
    await monitor.execute("quit")
    await process.wait()


def bare(samples: Samples) -> None:
    run = loop_thread().run
    with samples.time("S: bare QEMU, spawn to QMP ready"):
        process, monitor = run(_spawn_bare())
    with samples.time("bare quit"):
        run(_quit_bare(process, monitor))
    run(monitor.close())


def driver(samples: Samples) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        with samples.time("open+create"):
            connection = libvirt.open(make_uri(root))
            domain = connection.createXML(XML, PAUSED)
        domain.destroy()
        with samples.time("create alone"):
            domain = connection.createXML(XML, PAUSED)
        with samples.time("destroy"):
            domain.destroy()
        connection.close()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def probing(samples: Samples) -> None:
    with samples.time("probe"):
        loop_thread().run(probe(QEMU))


def plugin(samples: Samples) -> None:
    code = (
        "import pytest, time; start = time.perf_counter();"
        "import pytest_embedvm.plugin.hooks, pytest_embedvm.plugin.fixtures;"
        "print((time.perf_counter() - start) * 1000)"
    )
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    samples.add("loading the plugin", float(said))


def boot(samples: Samples) -> None:
    built = build_guest(default_cache_dir())
    xml = domain_xml("bench", kernel=built.kernel, initrd=built.initrd, cmdline=built.cmdline)
    root = Path(tempfile.mkdtemp())
    connection = libvirt.open(make_uri(root))
    try:
        with samples.time("boot to vm.run"):
            vm = VM.boot(connection, xml)
            vm.wait_ready(timeout=120)
            vm.run(["true"])
        for _ in range(10):
            with samples.time("vm.run, warm"):
                vm.run(["true"])
        vm.close()
    finally:
        connection.close()
        shutil.rmtree(root, ignore_errors=True)


def real_libvirt(samples: Samples) -> str | None:
    """One fresh process, since libvirt opens one root a process; why not, where it cannot be measured."""
    for python in (sys.executable, "/usr/bin/python3"):
        done = subprocess.run([python, LIBVIRT, str(QEMU)], check=False, capture_output=True, text=True)
        if done.returncode == 0:
            for name, milliseconds in json.loads(done.stdout).items():
                samples.add(f"libvirt: {name}", milliseconds)
            return None
    return (done.stderr.strip().splitlines() or ["it said nothing"])[-1]


def measure(runs: int, boots: int) -> tuple[Samples, str | None]:
    samples, why_not = Samples(), None
    driver(Samples())  # the capability cache is warm from here on
    steps: list[Callable[[Samples], object]] = [bare, driver, probing, plugin]
    for number in range(runs):
        for step in steps:
            step(samples)
        if why_not is None:
            why_not = real_libvirt(samples)
        if number < boots:
            boot(samples)
    return samples, why_not


def report(samples: Samples) -> dict[str, dict[str, float]]:
    s = samples.median("S: bare QEMU, spawn to QMP ready")
    rows = {}
    for name in samples.of:
        unit = samples.median("bare quit") if name in ("destroy", "libvirt: destroy") else s
        rows[name] = {"ms": samples.median(name), "ratio": samples.median(name) / unit, "runs": len(samples.of[name])}
        if name in GOALS:
            rows[name]["goal"] = GOALS[name]
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    lines = [f"{'median of each':40} {'ms':>9} {'ratio':>8}  goal"]
    for name, row in rows.items():
        goal = f"≤ {row['goal']:g}" if "goal" in row else ""
        unit = "× quit" if "destroy" in name else "S"
        lines.append(f"{name:40} {row['ms']:9.2f} {row['ratio']:6.2f} {unit:6} {goal}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11, help="rounds (default: 11)")
    parser.add_argument("--boots", type=int, default=7, help="rounds with a cold boot of the guest (default: 7)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    arguments = parser.parse_args()
    samples, why_not = measure(arguments.runs, arguments.boots)
    rows = report(samples)
    print(table(rows))
    if why_not:
        print(f"real libvirt was not measured: {why_not}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    else:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
