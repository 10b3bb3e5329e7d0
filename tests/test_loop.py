"""loop: one thread, proved to run, not to be called from itself or from a forked child."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading

import pytest

from pytest_embedvm.errors import OperationInvalid
from pytest_embedvm.loop import LoopThread, loop_thread


async def thread_name() -> str:
    return threading.current_thread().name


def test_coroutines_run_on_the_loop_thread() -> None:
    assert loop_thread().run(thread_name()) == "embedvm-loop"


def test_there_is_one_thread() -> None:
    assert loop_thread() is loop_thread()
    assert [t.name for t in threading.enumerate()].count("embedvm-loop") == 1


def test_an_exception_comes_back() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        loop_thread().run(fail())


def test_a_call_from_the_loop_thread_raises_instead_of_waiting_for_itself() -> None:
    async def call_again() -> str:
        return loop_thread().run(thread_name())

    with pytest.raises(OperationInvalid, match="called from the driver's own loop thread"):
        loop_thread().run(call_again())


def test_an_interrupted_wait_cancels_the_coroutine(monkeypatch: pytest.MonkeyPatch) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def wait() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    def interrupted(_future: object) -> None:
        started.wait(10)
        raise KeyboardInterrupt

    thread = loop_thread()
    monkeypatch.setattr(concurrent.futures.Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.run(wait())
    monkeypatch.undo()
    assert cancelled.is_set()  # what it had begun was undone before the interrupt was passed on


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_is_told_and_may_start_its_own() -> None:
    parents: LoopThread = loop_thread()
    parents.run(thread_name())
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = ""
        try:
            parents.run(thread_name())
        except OperationInvalid as error:
            said = error.detail
        own = loop_thread().run(thread_name())
        os.write(writer, f"{own}|{said}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        own, said = pipe.read().split("|")
    assert os.waitpid(pid, 0)[1] == 0
    assert own == "embedvm-loop"
    assert f"belongs to process {os.getpid()}, this is process {pid}" in said
