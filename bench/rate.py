"""How many clones a second: workers beside each other, each a process with a root of its own.

As a program it is one worker: it says that it is ready, waits for a line, and prints the seconds that it took.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.template import clone, end, private_root
from pytest_embedvm import libvirt


def rate(template: Path, workers: int, each: int) -> float:
    """Clones a second of WORKERS that make EACH: started, resumed, answered a ping, destroyed."""
    words = [sys.executable, "-m", "bench.rate", str(template), str(each)]
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


def work(template: Path, count: int) -> None:
    with private_root() as (_, connection):
        once(connection, template, "first")  # what is made once a process is made
        print("ready", flush=True)
        sys.stdin.readline()
        for number in range(count):
            once(connection, template, f"clone-{number}")


def once(connection: libvirt.virConnect, template: Path, name: str) -> None:
    vm = clone(connection, template, name)
    vm.wait_ready()
    end(vm)


if __name__ == "__main__":
    work(Path(sys.argv[1]), int(sys.argv[2]))
