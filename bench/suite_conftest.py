"""Of each test of a suite: how long its VM took, until its first command had returned, and what it cost.

Milliseconds, `worker` and `origin` apart: `setup` from the beginning of the test's set-up until the first `vm.run` has
returned, `teardown`, `cpu` of this process and of the children that ended meanwhile, and `s`, a bare QEMU beside it.
`began` and `ended` are seconds of one clock for all workers.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_embedvm.guest import VM

RECORD = pytest.StashKey[dict[str, Any]]()


def cpu() -> float:
    seen = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in seen) * 1000


def since(start: float) -> float:
    return (time.perf_counter() - start) * 1000


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    record = item.stash[RECORD] = {
        "worker": os.environ.get("PYTEST_XDIST_WORKER", "main"),
        "began": time.monotonic(),
        "begun": time.perf_counter(),
    }
    before = cpu()
    result = yield
    del record["begun"]
    record["ended"] = time.monotonic()
    record["cpu"] = cpu() - before - record.pop("not_counted", 0)
    with (Path(__file__).parent / "records").open("a") as file:
        file.write(json.dumps(record) + "\n")
    return result


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    if os.environ["BENCH_BESIDE"]:
        before = cpu()
        item.stash[RECORD]["s"] = bare()
        item.stash[RECORD]["not_counted"] = cpu() - before
    start = time.perf_counter()
    result = yield
    item.stash[RECORD]["teardown"] = since(start)
    return result


def bare() -> float:
    """Bare QEMU from spawn to QMP ready, as bench/driver.py has it."""
    from bench import driver

    driver.QEMU = Path(os.environ["BENCH_BESIDE"])  # the real one: the suite's own is counted
    samples = driver.Samples()
    driver.bare(samples)
    return samples.of["S: bare QEMU, spawn to QMP ready"][0]


@pytest.fixture
def first_command(request: pytest.FixtureRequest) -> Callable[[VM], None]:
    record = request.node.stash[RECORD]

    def run(vm: VM) -> None:
        vm.run("true")
        record["setup"] = since(record["begun"])
        record["origin"] = str(getattr(vm, "origin", ""))

    return run
