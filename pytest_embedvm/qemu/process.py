"""A child process: spawned from the loop thread, waited for without polling, gone when its parent is."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final, Self
from weakref import WeakSet

from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.qemu.confinement import UNCONFINED, Confinement

KILL_TIMEOUT_S: Final = 10.0


#: Those that are to end with us.
_ours: Final[WeakSet[Process]] = WeakSet()
#: Why no more may be started.
_closed: str | None = None


def end_all(why: str) -> None:
    """SIGKILL every child but those that outlive their parent, and start no more; must run on the loop thread.

    :param why: what who tries to start one is told.
    """
    global _closed
    _closed = why
    for process in _ours:
        process.send_signal(signal.SIGKILL)


class Process:
    """A running child, or one that has ended."""

    def __init__(self, popen: subprocess.Popen[bytes], name: str) -> None:
        self._popen = popen
        self.name = name
        self.pid = popen.pid
        self._ended = asyncio.Event()
        self._waiter: asyncio.Task[None] | None = None
        self._watch()

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        output: IO[bytes] | int = subprocess.DEVNULL,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        outlives_parent: bool = False,
        confinement: Confinement = UNCONFINED,
    ) -> Self:
        """Start ARGV in a process group of its own, so that a terminal's Ctrl-C does not reach it.

        Must run on the loop thread: without `outlives_parent` the kernel kills the child when the
        thread that spawned it ends, by whatever signal.

        :param output: where its standard output and error go.
        :param confinement: as whom it runs, and within which limits.
        :param pass_fds: descriptors it inherits under the same numbers.
        :raise SystemFailure: when the program cannot be started, or `end_all()` was called.
        """
        if _closed is not None:
            raise SystemFailure(f"cannot execute binary {argv[0]}: {_closed}")
        if shutil.which(argv[0]) is None:  # setpriv would start, and only then find out
            number = errno.EACCES if Path(argv[0]).exists() else errno.ENOENT
            raise SystemFailure(f"cannot execute binary {argv[0]}: {os.strerror(number)}")
        words = [*confinement.words(outlives_parent=outlives_parent), *argv]
        try:
            popen = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=pass_fds,
                env=env,
                process_group=0,
                umask=0o077,  # what it makes, sockets too, is as private as what we make
            )
        except OSError as error:
            raise SystemFailure(f"cannot execute binary {argv[0]}: {error.strerror}") from error
        try:
            process = cls(popen, os.path.basename(argv[0]))  # noqa: PTH119 - a word of a command line, not a path to walk
        except OSError as error:  # no descriptor is left to watch it with
            popen.kill()
            popen.wait()
            raise SystemFailure(f"cannot watch process {popen.pid} of {argv[0]}: {error.strerror}") from error
        if not outlives_parent:
            _ours.add(process)
        return process

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        if not hasattr(os, "pidfd_open"):  # macOS
            self._waiter = loop.create_task(self._wait_in_thread())
            return
        descriptor = os.pidfd_open(self.pid)

        def ended() -> None:
            loop.remove_reader(descriptor)
            os.close(descriptor)
            self._popen.wait()
            self._ended.set()

        loop.add_reader(descriptor, ended)

    async def _wait_in_thread(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self._popen.wait)
        self._ended.set()

    @property
    def returncode(self) -> int | None:
        """None while it runs; its exit status, or minus the signal that ended it."""
        return self._popen.returncode

    async def wait(self) -> int:
        """Wait until it has ended and been reaped."""
        await self._ended.wait()
        return self._popen.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if not self._ended.is_set():
            self._popen.send_signal(number)

    async def kill(self) -> int:
        """SIGKILL and wait.

        :raise InternalError: when it is still there after 10 s (it sleeps uninterruptibly in the kernel).
        """
        self.send_signal(signal.SIGKILL)
        try:
            async with asyncio.timeout(KILL_TIMEOUT_S):
                return await self.wait()
        except TimeoutError:
            raise InternalError(
                f"process {self.pid} ({self.name}) did not end within {KILL_TIMEOUT_S:g} s of SIGKILL"
            ) from None


#: The most of a command line that goes into a sentence.
COMMAND_CHARACTERS: Final = 200


def command_of(pid: int) -> str:
    """The command line of process PID on one line, at most 200 characters of it; the program's name if it has ended.

    :raise OSError: when there is no such process, or none that can be seen from here.
    """
    process = Path("/proc") / str(pid)
    words = (process / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ") or (process / "comm").read_bytes()
    return " ".join(words.decode(errors="replace").split())[:COMMAND_CHARACTERS]
