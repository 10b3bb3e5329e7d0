"""Coroutine tests, drivers in roots of their own, and a record of their events."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm.constants import DomainEventID
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.events import AgentLifecycle, Event, Lifecycle, MetadataChange, Reboot, RtcChange
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.uri import make_uri

#: No event of a test's takes longer.
DEADLINE_S = 30


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test on a loop of its own; a task that it leaves behind is an error."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None

    async def run() -> None:
        arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
        await pyfuncitem.obj(**arguments)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"

    asyncio.run(run())
    return True


@pytest.fixture(scope="session", autouse=True)
def _probe_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One probe for the whole run, out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDVM_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "probe"))
        yield


class Events:
    """What a driver told, in order."""

    def __init__(self, driver: Driver) -> None:
        self._hub = driver.events
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._fences = itertools.count(1_000_000)
        for kind in (Lifecycle, Reboot, RtcChange, AgentLifecycle, MetadataChange):
            self._hub.register(kind.event_id, None, self._record)

    def _record(self, machine: Machine, event: Event) -> None:
        self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def _until(self, last: Callable[[Event], bool]) -> list[Event]:
        seen: list[Event] = []
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not seen or not last(seen[-1]):
                    seen.append(await self._queue.get())
        except TimeoutError:
            pytest.fail(f"the awaited event did not come; what came: {seen}")
        return seen

    async def so_far(self, machine: Machine) -> list[str]:
        """What was told since the last look, and no more."""
        fence = RtcChange(next(self._fences))
        self._hub.emit(machine, fence)
        return [spell(event) for event in (await self._until(lambda event: event == fence))[:-1]]

    async def until(self, text: str) -> list[str]:
        """What was told since the last look, up to the event that is spelled TEXT."""
        return [spell(event) for event in await self._until(lambda event: spell(event) == text)]


def spell(event: Event) -> str:
    """`STOPPED/DESTROYED`, `REBOOT`."""
    if isinstance(event, Lifecycle):
        return f"{event.event.name}/{event.detail.name}"
    return DomainEventID(event.event_id).name


OpenDriver = Callable[..., AbstractAsyncContextManager[Driver]]


@pytest.fixture
def embed(tmp_path: Path) -> OpenDriver:
    """Opens a driver in a root below tmp_path, closes it, and checks that no process of it stays."""

    @contextlib.asynccontextmanager
    async def open_driver(root: Path | None = None) -> AsyncIterator[Driver]:
        driver = await Driver.open(make_uri(root or tmp_path / "root"))
        pids = []
        try:
            yield driver
            pids = [machine._running.process.pid for machine in driver.machines() if machine._running]
        finally:
            await driver.close()
        if not driver._closed.is_set():
            return  # others still have it open
        assert not [pid for pid in pids if exists(pid)]

    return open_driver


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def state(machine: Machine) -> tuple[Any, ...]:
    return tuple(part.name for part in machine.state)
