"""How many clones a second: workers beside each other, each a process with a root of its own.

As a program it is one worker: it says that it is ready, waits for a line, and prints the seconds that it took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.template import bare_clone, clone, end, private_root
from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM

Make = Callable[[libvirt.virConnect, Path, str], VM]


def rate(template: Path, workers: int, each: int, *, bare: bool = False) -> float:
    """Clones a second of WORKERS that make EACH and end it: renewed, or BARE, which only answers a ping."""
    words = [sys.executable, "-m", "bench.rate", str(template), str(each), *(["bare"] if bare else [])]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) for _ in range(workers)]
    for process in processes:
        if not process.stdout or process.stdout.readline() != "ready\n":
            raise SystemExit("a worker did not get ready; what it said is above")
    start = time.perf_counter()
    for process in processes:
        if process.stdin:
            process.stdin.write("go\n")
            process.stdin.flush()
    ends = [process.wait() for process in processes]
    took = time.perf_counter() - start
    for process in processes:
        for file in (process.stdin, process.stdout):
            if file:
                file.close()
    if any(ends):
        raise SystemExit("a worker failed; what it said is above")
    return workers * each / took


def work(template: Path, count: int, make: Make) -> None:
    with private_root() as (_, connection):
        end(make(connection, template, "first"))  # what is made once a process is made
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(count):
            end(make(connection, template, f"clone-{number}"))


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]), bare_clone if sys.argv[3:] else clone)
