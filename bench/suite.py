"""A suite of tests with a VM each, run by pytest as its users run it: what each took, and what was started for all.

Its conftest.py is `bench/suite_conftest.py`, which writes a line of JSON a test.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.cache import default_cache_dir

CONFTEST = Path(__file__).with_name("suite_conftest.py")
TESTS = """\
import time
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_vm(vm, first_command, number):
    first_command(vm)
    time.sleep({pause})
"""
#: A QEMU that notes with which words it is started.
COUNTING = """\
#!/bin/sh
printf '%s\\n' "$*" >>'{log}'
exec '{qemu}' "$@"
"""


@dataclass(frozen=True)
class Run:
    """One run of the suite."""

    #: Of the whole command, in seconds; and CPU time of pytest, its workers and every QEMU.
    wall: float
    cpu: float
    #: What was noted of each test: see `bench/suite_conftest.py`.
    tests: list[dict[str, Any]]
    #: How often QEMU was started to be asked what it can do, to be made a template, as a clone, and at all.
    probes: int
    templates: int
    clones: int
    starts: int
    #: What was there afterwards that should not be.
    left: list[str]

    def of(self, name: str) -> list[float]:
        return [test[name] for test in self.tests if name in test]

    @property
    def span(self) -> float:
        """Seconds from the first test's begin to the last one's end: without pytest's own start, and the workers'."""
        return max(self.of("ended")) - min(self.of("began"))


class Suite:
    """A directory with the suite and with a cache of its own, in which nothing but the built-in guest is made yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cache = folder / "cache"
        self._starts = folder / "starts"
        folder.mkdir()
        for name in ("guest", "packages"):
            made = default_cache_dir() / name
            if made.is_dir():
                shutil.copytree(made, self._cache / name, symlinks=True)
        (folder / "bin").mkdir()
        counting = folder / "bin" / "qemu-system-x86_64"
        counting.write_text(COUNTING.format(log=self._starts, qemu=find_binary()))
        counting.chmod(0o755)

    def run(self, tests: int, *options: str, workers: int = 0, pause: float = 0, beside: bool = False) -> Run:
        """Run it with pytest's OPTIONS.

        :param tests: how many.
        :param pause: seconds that each test takes after its first command.
        :param beside: whether each test ends with a bare QEMU's start, to compare with.
        :raise SystemExit: when a test fails; with what pytest said.
        """
        place = self._folder / f"suite-{len(list(self._folder.glob('suite-*')))}"
        place.mkdir()
        shutil.copy(CONFTEST, place / "conftest.py")
        (place / "test_vm.py").write_text(TESTS.format(tests=tests, pause=pause))
        self._starts.write_text("")
        spread = ["-n", str(workers)] if workers else ["-p", "no:xdist"]
        words = [sys.executable, "-m", "pytest", "--embedvm", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
        words += ["--basetemp", str(place / "tmp"), "--embedvm-cache-dir", str(self._cache), *spread, *options]
        start, before = time.perf_counter(), children_cpu()
        environment = self._environment(beside)
        done = subprocess.run(words, check=False, cwd=place, env=environment, capture_output=True, text=True)
        wall, cpu = time.perf_counter() - start, children_cpu() - before
        if done.returncode:
            raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")
        return self._seen(place, wall, cpu)

    def _environment(self, beside: bool) -> dict[str, str]:
        code = str(CONFTEST.parent.parent)
        return os.environ | {
            "PATH": f"{self._folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(filter(None, (code, os.environ.get("PYTHONPATH")))),
            "BENCH_BESIDE": str(find_binary()) if beside else "",
        }

    def _seen(self, place: Path, wall: float, cpu: float) -> Run:
        starts = self._starts.read_text().splitlines()
        records = (place / "records").read_text().splitlines()
        return Run(
            wall=wall,
            cpu=cpu,
            tests=[json.loads(line) for line in records],
            probes=sum("-machine none" in line or "-M none" in line for line in starts),
            templates=sum('"share":true' in line for line in starts),
            clones=sum('"share":false' in line for line in starts),
            starts=len(starts),
            left=list(self._left(place / "tmp")),
        )

    def _left(self, basetemp: Path) -> Iterator[str]:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if str(self._folder).encode() in command:
                yield f"process {process.name}: {command.replace(bytes(1), b' ').decode(errors='replace')[:200]}"
        for pattern in ("**/*.pid", "**/*.sock"):
            yield from map(str, basetemp.glob(pattern))
        yield from (str(path) for path in self._cache.rglob("*") if path.name.startswith(".new-"))


def children_cpu() -> float:
    """Seconds of CPU time of all children that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
