from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from weakref import WeakSet

import pytest

from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.qemu import process
from pytest_embedvm.qemu.identity import Identity
from pytest_embedvm.qemu.process import Gate, Process
from tests.qemu.counting import open_descriptors

FOREVER = [sys.executable, "-c", "import signal; signal.pause()"]


def output_of(argv: list[str], **options: bool) -> bytes:
    async def main() -> bytes:
        with tempfile.TemporaryFile() as output:
            await Process.spawn(argv, output=output, **options).wait()
            output.seek(0)
            return output.read()

    return asyncio.run(main())


def test_its_status_is_known_once_it_has_ended() -> None:
    async def main() -> tuple[int | None, int, int | None]:
        process = Process.spawn([sys.executable, "-c", "raise SystemExit(3)"])
        before = process.returncode
        return before, await process.wait(), process.returncode

    assert asyncio.run(main()) == (None, 3, 3)


def test_standard_output_and_error_go_to_one_place() -> None:
    said = output_of(["sh", "-c", "echo out; echo error >&2"])
    assert said == b"out\nerror\n"


def test_kill_waits_until_it_is_reaped_and_may_be_repeated() -> None:
    async def main() -> None:
        process = Process.spawn(FOREVER)
        assert await process.kill() == -signal.SIGKILL
        assert await process.kill() == -signal.SIGKILL
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)

    asyncio.run(main())


def test_ending_all_spares_what_outlives_us_and_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        ours, other = Process.spawn(FOREVER), Process.spawn(FOREVER, outlives_parent=True)
        process.end_all("the house is closed")
        assert await ours.wait() == -signal.SIGKILL
        with pytest.raises(SystemFailure, match="the house is closed"):
            Process.spawn(FOREVER)
        assert other.returncode is None
        await other.kill()

    monkeypatch.setattr(process, "_closed", None)  # and back in the end
    monkeypatch.setattr(process, "_ours", WeakSet())  # not the machines of other tests in this process
    asyncio.run(main())


def test_a_signal_after_its_end_hits_nobody() -> None:
    async def main() -> None:
        process = Process.spawn(["true"])
        await process.wait()
        process.send_signal(signal.SIGTERM)
        assert process.returncode == 0

    asyncio.run(main())


def test_a_terminals_interrupt_does_not_reach_it() -> None:
    async def main() -> None:
        process = Process.spawn(FOREVER)
        try:
            assert os.getpgid(process.pid) == process.pid != os.getpgrp()
        finally:
            await process.kill()

    asyncio.run(main())


def test_a_program_that_is_not_there() -> None:
    async def main() -> None:
        Process.spawn(["/nonexistent/qemu"])

    with pytest.raises(SystemFailure, match=r"^cannot execute binary /nonexistent/qemu: No such file or directory$"):
        asyncio.run(main())


def test_a_file_that_is_no_program(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no program")

    async def main() -> None:
        Process.spawn([str(text)])

    with pytest.raises(SystemFailure, match="text: Permission denied"):
        asyncio.run(main())


def test_waiting_leaves_no_descriptor_open() -> None:
    async def main() -> None:
        await Process.spawn(["true"]).wait()  # what is opened once is open now
        before = open_descriptors()
        for _ in range(5):
            await Process.spawn(["true"]).wait()
        assert open_descriptors() == before

    asyncio.run(main())


DEATH_SIGNAL = [
    sys.executable,
    "-c",
    "import ctypes; n = ctypes.c_int(); ctypes.CDLL(None).prctl(2, ctypes.byref(n)); print(n.value)",
]


def test_the_signal_it_gets_when_its_parent_is_gone() -> None:
    assert int(output_of(DEATH_SIGNAL)) == signal.SIGKILL


def test_behind_a_gate_it_gets_none_and_waits() -> None:
    async def main() -> list[bytes]:
        said = []
        for opened in (True, False):
            with tempfile.TemporaryFile() as output:
                with Gate() as gate:
                    two = [Process.spawn(DEATH_SIGNAL, output=output, gate=gate) for _ in range(2)]
                    if opened:
                        gate.open()
                for process in two:
                    await process.wait()
                output.seek(0)
                said.append(output.read())
        return said

    assert asyncio.run(main()) == [b"0\n0\n", b""]


LOST_GATE = """
import asyncio, os, sys
from pytest_embedvm.qemu.process import Gate, Process

async def main():
    gate = Gate()
    print(Process.spawn(["touch", sys.argv[1]], gate=gate).pid, flush=True)
    sys.stdin.read(1)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


def test_a_gate_whose_keeper_dies_lets_nobody_in(tmp_path: Path) -> None:
    words = [sys.executable, "-c", LOST_GATE, str(tmp_path / "begun")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        assert parent.stdin
        descriptor = os.pidfd_open(int(parent.stdout.readline()))
        parent.stdin.write("x")
        parent.stdin.flush()
        assert select.select([descriptor], [], [], 30)[0]
        os.close(descriptor)
    assert not (tmp_path / "begun").exists()


def test_one_that_is_adopted_is_watched_and_ended() -> None:
    async def main() -> None:
        child = Process.spawn(FOREVER)
        adopted = Process(child.identity, "forever")  # as another process sees it
        try:
            assert adopted.returncode is None
            adopted.send_signal(signal.SIGTERM)
            await adopted.wait()
        finally:
            await child.kill()
        with pytest.raises(ProcessLookupError):
            Process.adopt(child.identity, "forever")

    asyncio.run(main())


def test_another_process_of_that_number_is_not_adopted() -> None:
    async def main() -> None:
        before = open_descriptors()
        later = dataclasses.replace(Identity.of(os.getpid()), start_ticks=1)
        elsewhere = dataclasses.replace(Identity.of(os.getpid()), boot="another")
        for other in (later, elsewhere):
            assert not other.alive
            with pytest.raises(ProcessLookupError, match="has ended"):
                Process.adopt(other, "other")
        assert open_descriptors() == before

    asyncio.run(main())
    assert Identity.of(os.getpid()).alive


def test_one_that_was_left_is_still_reaped_and_can_be_had_again() -> None:
    async def main() -> None:
        child = Process.spawn(FOREVER)
        child.leave()
        assert Process.adopt(child.identity, "forever") is child
        child.leave()
        os.kill(child.pid, signal.SIGKILL)
        assert await child.wait() == -signal.SIGKILL

    asyncio.run(main())


def test_one_that_was_left_by_another_loop() -> None:
    async def leave() -> Process:
        child = Process.spawn(FOREVER)
        child.leave()
        return child

    child = asyncio.run(leave())

    async def adopt() -> int | None:
        return await Process.adopt(child.identity, "forever").kill()

    assert asyncio.run(adopt()) == -signal.SIGKILL


PARENT = """
import asyncio, sys
from pytest_embedvm.qemu.process import Process

async def main():
    Process.spawn(["sh", "-c", "echo $$; exec sleep 1000"], output=sys.stdout)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_it_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        child = os.pidfd_open(int(parent.stdout.readline()))  # said by the child itself: the signal is set
        try:
            parent.kill()
            poll = select.poll()
            poll.register(child, select.POLLIN)
            assert poll.poll(10_000), "the child is still alive 10 s after its parent was killed"
        finally:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)


DIES_AT_ONCE = """
import asyncio, os, signal, sys
from pytest_embedvm.qemu.process import Process

async def main():
    Process.spawn(["sleep", "600"], env={"PATH": os.environ["PATH"], "EMBEDVM_TEST": sys.argv[1]})
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def marked(mark: str) -> list[int]:
    """The processes that have MARK in their environment."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"EMBEDVM_TEST={mark}".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
    return found


def arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for the child in /proc")
def test_a_parent_that_dies_before_the_signal_is_set_leaves_no_child(tmp_path: Path) -> None:
    slow = tmp_path / "setpriv"
    slow.write_text(f'#!/bin/sh\nsleep 0.2\nexec {shutil.which("setpriv")} "$@"\n')
    slow.chmod(0o755)
    mark = str(tmp_path)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-c", DIES_AT_ONCE, mark], check=False, env=environment)
    assert marked(mark), "the slow start was not seen at all"
    deadline = time.monotonic() + 10
    while any(not arguments(pid).startswith(b"sleep\x00600") for pid in marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.01)
    survivors = marked(mark)
    for pid in survivors:
        os.kill(pid, signal.SIGKILL)
    assert survivors == []
