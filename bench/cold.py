"""Cold boots by real libvirt's embed driver, as a suite of tests with a VM each would have them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.template import guest_xml

LIBVIRT_BOOT = Path(__file__).with_name("libvirt_boot.py")


def by_libvirt(workers: int, each: int) -> tuple[float | None, str | None]:
    """Seconds for one VM of WORKERS that boot EACH, all beside each other; or why it was not measured.

    They have no network card, and nobody cleans up behind a test: that is to libvirt's advantage.
    """
    why = None
    for python in (sys.executable, "/usr/bin/python3"):
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(guest_xml(network="none"))
            file.flush()
            seconds, why = _measure([python, str(LIBVIRT_BOOT), file.name, str(each)], workers)
        if seconds is not None:
            return seconds / (workers * each), None
    return None, why


def _measure(words: list[str], workers: int) -> tuple[float | None, str | None]:
    start = time.perf_counter()
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True) for _ in range(workers)]
    said = [process.communicate() for process in processes]
    took = time.perf_counter() - start
    for process, (output, errors) in zip(processes, said, strict=True):
        if process.returncode:
            return None, (errors.strip().splitlines() or ["it said nothing"])[-1]
        json.loads(output)
    return took, None
