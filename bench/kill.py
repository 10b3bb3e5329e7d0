#!/usr/bin/env python3
"""Killing a test suite at random moments: what of its QEMUs is left a second later, and does the next run pass?

Usage: bench/kill.py [--moments N] [--seed N] [--only MOMENT] [--json FILE]

The suite has eight virtual machines under `pytest -n 4`: seven that only run their firmware, or in a quarter of the
moments two of these with the built-in guest, and one with a network by passt where that is installed. Each moment is
drawn from the seed: when it comes (from the first fork of pytest to after its end), whether the cache is cold (so that
QEMU is being probed and the guest built), and whom SIGKILL hits: the controller alone, one worker alone, or the whole
process group. A second later no QEMU, nor anything else that the suite has spawned, may live (a zombie does not: who
has to reap it is not ours), and the next run, which begins at once, has to pass. Where a worker was killed the run goes
on with another one, and may fail in the one test that the worker had in hand.

Processes are known by the run's directory in their environment or command line, and by their parents; never by name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

#: The promise.
LIMIT_S = 1.0
#: A run that takes longer hangs.
RUN_TIMEOUT_S = 240.0
#: How long what was spawned may take in the end, to be reported with its figure rather than as "never".
PATIENCE_S = 30.0
SCAN_S = 0.01
WORKERS = 4

SUITE = """
import shutil, time
import pytest

SMALL = '''<domain type='qemu'><name>{}</name><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><serial type='pty'/><memballoon model='none'/>{}</devices></domain>'''
# Without a network of the host's own, passt gives up.
HAS_PASST = shutil.which("passt") and len(open("/proc/net/route").readlines()) > 1
PASST = "<interface type='user'><backend type='passt'/><model type='virtio'/></interface>"

# Neighbours go to one worker: each gets two, and no two guests.
@pytest.mark.parametrize("kind", {kinds})
def test_machine(kind, request):
    if kind == "guest":
        assert request.getfixturevalue("vm").run(["true"]).returncode == 0
        return
    network = PASST if kind == "network" and HAS_PASST else ""
    domain = request.getfixturevalue("embedvm_conn").createXML(SMALL.format(kind, network), 0)
    time.sleep({hold})
    assert domain.isActive()
"""

SMALL = ("small", "small", "small", "small", "network", "small", "small", "small")
GUESTS = ("guest", "small", "guest", "small", "network", "small", "small", "small")
PASSED = f"{len(SMALL)} passed"

Victim = Literal["controller", "worker", "group"]


@dataclass(frozen=True)
class Moment:
    """One way to kill a run, all of it drawn from the seed."""

    number: int
    victim: Victim
    cold: bool
    #: Whether two of the machines boot the built-in guest; otherwise all only run their firmware.
    guests: bool
    #: Where in the run, as a part of the time that a whole one takes.
    part: float

    @classmethod
    def draw(cls, seed: int, number: int) -> Moment:
        chance = random.Random(f"{seed}/{number}")
        victim: Victim = chance.choices(("controller", "worker", "group"), (2, 1, 1))[0]
        cold, guests = chance.random() < 0.25, chance.random() < 0.25
        return cls(number, victim, cold=cold, guests=guests, part=chance.uniform(0, 1.05))


@dataclass
class Outcome:
    """What one kill did."""

    moment: Moment
    delay_s: float
    #: How many QEMUs and other programs the suite had spawned and still had when it was killed.
    spawned: int = 0
    #: Until the last of them was gone; None where nothing was to go.
    gone_after_s: float | None = None
    #: Those that lived when the second was over.
    left: list[str] = field(default_factory=list)
    #: What else is wrong, in sentences.
    wrong: list[str] = field(default_factory=list)
    next_passed: bool = False

    @property
    def good(self) -> bool:
        return not self.left and not self.wrong and self.next_passed


# Processes


def _read(pid: int, name: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _parent_and_state(pid: int) -> tuple[int, str]:
    """Of a process; 0 and Z when it is gone."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[1]), fields[0].decode()) if fields else (0, "Z")


def _children(pid: int) -> set[int]:
    with contextlib.suppress(OSError):
        return {
            int(child) for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()
        }
    return set()


def _descendants(pid: int) -> set[int]:
    found = _children(pid)
    return found.union(*map(_descendants, found)) if found else found


def _marked(marker: bytes) -> set[int]:
    """Every process with MARKER in its environment or command line, zombies excepted: they have neither."""
    pids = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return {pid for pid in pids if marker in _read(pid, "environ") or marker in _read(pid, "cmdline")} - {os.getpid()}


def _is_pytest(pid: int) -> bool:
    """The controller or a worker, rather than what they spawned for a machine."""
    words = _read(pid, "cmdline").split(b"\0")
    return words[0] == os.fsencode(sys.executable) and b"kvm_loop.py" not in b" ".join(words)


def _spelled(pid: int) -> str:
    return f"{pid} {' '.join(_read(pid, 'cmdline').decode(errors='replace').split(chr(0)))[:120]}"


class Watch:
    """What a suite has spawned, followed by pidfds from before the kill until it is gone."""

    def __init__(self, marker: bytes, first: set[int], *, orphans_only: bool) -> None:
        self._marker = marker
        self._orphans_only = orphans_only
        self._open: dict[int, int] = {}
        self.seen = 0
        for pid in first:
            self._follow(pid)

    def _follow(self, pid: int) -> None:
        if pid in self._open or _is_pytest(pid):
            return
        with contextlib.suppress(ProcessLookupError):
            self._open[pid] = os.pidfd_open(pid)
            self.seen += 1

    def look(self) -> None:
        """Follow also what was spawned meanwhile; where the suite goes on, only what has lost its parent."""
        marked = _marked(self._marker)
        for pid in marked:
            if not self._orphans_only or _parent_and_state(pid)[0] not in marked:
                self._follow(pid)

    def gone_by(self, deadline: float) -> bool:
        """Wait until all are gone, or the DEADLINE has come."""
        while True:
            self.look()
            for descriptor in select.select(list(self._open.values()), [], [], SCAN_S)[0]:
                pid = next(pid for pid, known in self._open.items() if known == descriptor)
                os.close(self._open.pop(pid))
            if not self._open or time.monotonic() >= deadline:
                return not self._open

    @property
    def alive(self) -> list[str]:
        return [_spelled(pid) for pid in self._open if _parent_and_state(pid)[1] not in "ZX"]

    def close(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
        self._open.clear()


# Runs


class Bench:
    """A directory with a suite, a cache and pytest's temporary files; the suite can be run and killed."""

    def __init__(self, base: Path, *, hold: float = 1.0, limit_s: float = LIMIT_S) -> None:
        self.base = base
        self.limit_s = limit_s
        self.marker = os.fsencode(base)
        self.cache = base / "cache"
        self.hold = hold
        #: How long the last whole run took, without and with guests, in seconds; and how much more a cold cache costs.
        self.whole_s = {False: 0.0, True: 0.0}
        self.more_s = {False: 0.0, True: 0.0}
        (base / "suite").mkdir()
        (base / "tmp").mkdir()
        (base / "suite/pytest.ini").write_text("[pytest]\nembedvm = true\n")

    def write(self, *, guests: bool) -> None:
        text = SUITE.replace("{kinds}", str(GUESTS if guests else SMALL)).replace("{hold}", str(self.hold))
        (self.base / "suite/test_suite.py").write_text(text)

    def start(self, log: str) -> subprocess.Popen[bytes]:
        plugins = ("no:cacheprovider", "no:randomly", "no:hypothesispytest", "no:timeout")
        words = [sys.executable, "-m", "pytest", "-n", str(WORKERS), *(f"-p{name}" for name in plugins)]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "EMBEDVM_"))},
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "EMBEDVM_CACHE_DIR": str(self.cache),
            "PYTEST_DEBUG_TEMPROOT": str(self.base / "tmp"),
            "TMPDIR": str(self.base / "tmp"),
        }
        with (self.base / log).open("wb") as output:
            return subprocess.Popen(
                words, cwd=self.base / "suite", env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip

    def run(self, log: str) -> tuple[int | None, str]:
        """A whole run: its exit status, None if it hung; and what it said."""
        return self.finish(self.start(log), log)

    def finish(self, run: subprocess.Popen[bytes], log: str) -> tuple[int | None, str]:
        try:
            status: int | None = run.wait(RUN_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            status = None
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        return status, (self.base / log).read_text(errors="replace")

    def calibrate(self, *, guests: bool) -> None:
        """Find out how long a run takes.

        :raise RuntimeError: when it does not even pass when nobody kills it.
        """
        self.write(guests=guests)
        shutil.rmtree(self.cache, ignore_errors=True)
        took = []
        for _ in range(2):
            began = time.monotonic()
            status, said = self.run("first.log")
            if status != 0 or PASSED not in said:
                raise RuntimeError(f"the suite does not pass by itself:\n{said}")
            took.append(time.monotonic() - began)
        self.whole_s[guests] = took[1]
        self.more_s[guests] = max(took[0] - took[1], 0)

    def kill(self, moment: Moment) -> Outcome:
        """Run the suite, kill it at MOMENT, look, and run it again."""
        self.write(guests=moment.guests)
        whole_s = self.whole_s[moment.guests] + (self.more_s[moment.guests] if moment.cold else 0)
        outcome = Outcome(moment, moment.part * whole_s)
        if moment.cold:
            shutil.rmtree(self.cache, ignore_errors=True)
        run = self.start("killed.log")
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(outcome.delay_s)
        watch = self._strike(run, moment)
        struck = time.monotonic()
        if watch.gone_by(struck + self.limit_s):
            outcome.gone_after_s = time.monotonic() - struck if watch.seen else None
        else:
            outcome.left = watch.alive
            watch.gone_by(struck + PATIENCE_S)
            outcome.gone_after_s = time.monotonic() - struck
        outcome.spawned = watch.seen
        watch.close()
        if moment.victim == "worker":
            outcome.wrong += self._ended_well(*self.finish(run, "killed.log"))
        else:
            run.wait()
        self._run_again(outcome)
        return outcome

    def _strike(self, run: subprocess.Popen[bytes], moment: Moment) -> Watch:
        if moment.victim == "worker":
            workers = [pid for pid in sorted(_children(run.pid)) if _is_pytest(pid)]
            victim = random.Random(moment.part).choice(workers) if workers else run.pid
            watch = Watch(self.marker, _descendants(victim), orphans_only=True)
            if workers:
                os.kill(victim, signal.SIGKILL)
            return watch
        watch = Watch(self.marker, _descendants(run.pid), orphans_only=False)
        with contextlib.suppress(ProcessLookupError):  # it was over already
            (os.killpg if moment.victim == "group" else os.kill)(run.pid, signal.SIGKILL)
        return watch

    @staticmethod
    def _ended_well(status: int | None, said: str) -> Iterator[str]:
        """What is wrong with a run that lost a worker."""
        last = said.rstrip().splitlines()[-1:] or ["nothing"]
        if status not in (0, 1):
            yield f"a run that lost a worker ended with status {status}: {last[0]}"
        elif said.count("\nFAILED ") + said.count("\nERROR ") > 1:
            yield f"a run that lost a worker failed in more than the test it lost: {last[0]}"

    def _run_again(self, outcome: Outcome) -> None:
        began = time.monotonic()
        status, said = self.run("next.log")
        outcome.next_passed = status == 0 and PASSED in said
        if outcome.next_passed and not outcome.moment.cold:
            self.whole_s[outcome.moment.guests] = time.monotonic() - began
        if not outcome.next_passed:
            outcome.wrong.append(f"the next run ended with status {status}:\n{said}")
        stayed = [_spelled(pid) for pid in _marked(self.marker)]
        if stayed:
            outcome.wrong.append(f"after the next run there is still {stayed}")
        halves = [str(path) for path in self.cache.rglob(".*") if path.name.startswith((".new-", ".fetch-"))]
        if halves:
            outcome.wrong.append(f"the cache holds what a dead process has half made: {halves}")


def report(outcomes: list[Outcome], seed: int) -> str:
    """The figures, as a table."""
    times = [outcome.gone_after_s for outcome in outcomes if outcome.gone_after_s is not None]
    victims = {v: sum(o.moment.victim == v for o in outcomes) for v in ("controller", "worker", "group")}
    lines = [
        f"moments                                   {len(outcomes)} (seed {seed})",
        f"  killed: {', '.join(f'{victim} {count}' for victim, count in victims.items())}",
        f"  with a cold cache                       {sum(o.moment.cold for o in outcomes)}",
        f"  with the built-in guest                 {sum(o.moment.guests for o in outcomes)}",
        f"  with something spawned at that moment   {sum(o.spawned > 0 for o in outcomes)}",
        f"processes that were spawned               {sum(o.spawned for o in outcomes)}",
        f"processes left after {LIMIT_S:g} s                  {sum(len(o.left) for o in outcomes)}",
        f"longest until the last was gone           {max(times, default=0) * 1000:.0f} ms",
        f"next runs passed                          {sum(o.next_passed for o in outcomes)} of {len(outcomes)}",
        f"moments with anything wrong               {sum(not o.good for o in outcomes)}",
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=200, help="how many (default: 200)")
    parser.add_argument("--seed", type=int, default=1, help="where they are drawn from (default: 1)")
    parser.add_argument("--only", type=int, metavar="MOMENT", help="this one of them alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every outcome to FILE")
    arguments = parser.parse_args()
    numbers = range(arguments.moments) if arguments.only is None else [arguments.only]
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="embedvm-kill-") as base:
        bench = Bench(Path(base))
        for guests in (False, True):
            bench.calibrate(guests=guests)
            more = f"{bench.more_s[guests]:.1f} s more with a cold cache"
            print(
                f"a run {'with' if guests else 'without'} guests takes {bench.whole_s[guests]:.1f} s, {more}",
                flush=True,
            )
        for number in numbers:
            moment = Moment.draw(arguments.seed, number)
            outcome = bench.kill(moment)
            outcomes.append(outcome)
            spoken = [*outcome.left, *outcome.wrong]
            kind = f"{'cold' if moment.cold else 'warm'} {'guests' if moment.guests else 'small '}"
            how = f"{moment.victim:10} {kind} at {outcome.delay_s:5.2f} s"
            gone = "" if outcome.gone_after_s is None else f", gone after {outcome.gone_after_s * 1000:.0f} ms"
            print(f"{number:4} {how}: {outcome.spawned} spawned{gone}", *spoken, sep="\n     ", flush=True)
    print(report(outcomes, arguments.seed))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
    return 0 if all(outcome.good for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
