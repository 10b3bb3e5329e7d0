"""A QEMU, or what belongs to one: spawned from the loop thread or found again, waited for without polling."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self
from weakref import WeakSet

from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.qemu.confinement import UNCONFINED, Confinement
from pytest_embedvm.qemu.identity import Identity

KILL_TIMEOUT_S: Final = 10.0


#: Those that are to end with us.
_ours: Final[WeakSet[Process]] = WeakSet()
#: Why no more may be started.
_closed: str | None = None

#: Behind a gate: nothing comes but the end of file when who holds the gate died before it was opened.
_LET_IN: Final = 'read -r _ || exit 1; exec "$@" </dev/null'


def end_all(why: str) -> None:
    """SIGKILL every child but those that outlive their parent, and start no more; must run on the loop thread.

    :param why: what who tries to start one is told.
    """
    global _closed
    _closed = why
    for process in _ours:
        process.send_signal(signal.SIGKILL)


class Gate:
    """Where programs wait that are to outlive us, until it is on record that they are there.

    A context manager: those that were not let in when it is left end without having begun.
    """

    def __init__(self) -> None:
        self.entrance, self._ours = os.pipe2(os.O_CLOEXEC)
        self.waiting = 0

    def __enter__(self) -> Self:
        return self

    def open(self) -> None:
        """Let all in that wait."""
        os.write(self._ours, b"\n" * self.waiting)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.entrance)
        os.close(self._ours)


class Process:
    """A running process, or one that has ended. It is a child, or was one of a process that is gone."""

    def __init__(self, identity: Identity, name: str, popen: subprocess.Popen[bytes] | None = None) -> None:
        self._popen = popen
        self.identity = identity
        self.name = name
        self.pid = identity.pid
        self._ended = asyncio.Event()
        self._waiter: asyncio.Task[None] | None = None
        self._watch()

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        source: int = subprocess.DEVNULL,
        output: IO[bytes] | int = subprocess.DEVNULL,
        errors: IO[bytes] | int | None = None,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        outlives_parent: bool = False,
        gate: Gate | None = None,
        confinement: Confinement = UNCONFINED,
    ) -> Self:
        """Start ARGV in a process group of its own, so that a terminal's Ctrl-C does not reach it.

        Must run on the loop thread: without a gate the kernel kills the child when the thread that spawned
        it ends, by whatever signal.

        :param source: its standard input; one that waits at a gate has none.
        :param output: where its standard output and error go.
        :param errors: where its standard error goes instead.
        :param confinement: as whom it runs, and within which limits.
        :param pass_fds: descriptors it inherits under the same numbers.
        :param outlives_parent: it is not ended with this process, by whatever; it needs a gate.
        :param gate: it does not begin before the gate is opened.
        :raise SystemFailure: when the program cannot be started, or `end_all()` was called.
        """
        if _closed is not None:
            raise SystemFailure(f"cannot execute binary {argv[0]}: {_closed}")
        if shutil.which(argv[0]) is None:  # setpriv would start, and only then find out
            number = errno.EACCES if Path(argv[0]).exists() else errno.ENOENT
            raise SystemFailure(f"cannot execute binary {argv[0]}: {os.strerror(number)}")
        waiting = ("/bin/sh", "-c", _LET_IN, "sh") if gate else ()
        words = [*confinement.words(outlives_parent=gate is not None), *waiting, *argv]
        try:
            popen = subprocess.Popen(
                words,
                stdin=gate.entrance if gate else source,
                stdout=output,
                stderr=output if errors is None else errors,
                pass_fds=pass_fds,
                env=env,
                process_group=0,
                umask=0o077,  # what it makes, sockets too, is as private as what we make
            )
        except OSError as error:
            raise SystemFailure(f"cannot execute binary {argv[0]}: {error.strerror}") from error
        if gate:
            gate.waiting += 1
        name = os.path.basename(argv[0])  # noqa: PTH119 - a word of a command line, not a path to walk
        try:
            process = cls(Identity.of(popen.pid), name, popen)
        except OSError as error:  # no descriptor is left to watch it with
            popen.kill()
            popen.wait()
            raise SystemFailure(f"cannot watch process {popen.pid} of {argv[0]}: {error.strerror}") from error
        if not outlives_parent:
            _ours.add(process)
        return process

    @classmethod
    def adopt(cls, identity: Identity, name: str) -> Process:
        """Take charge of the process that IDENTITY says, which another one spawned, or this one before `leave`.

        :raise ProcessLookupError: when it has ended.
        :raise SystemFailure: when this host cannot watch what is no child of ours.
        """
        left = _left.pop(identity.pid, None)
        if left is not None and left.identity == identity and left._loop is asyncio.get_running_loop():
            return left
        if not hasattr(os, "pidfd_open"):
            raise SystemFailure(f"process {identity.pid} ({name}) is no child, and this host has no pidfd_open")
        process = cls(identity, name, left._popen if left is not None else None)
        if not identity.alive:  # asked after it is watched: the number can no longer pass to another one
            process._forget()
            raise ProcessLookupError(f"process {identity.pid} ({name}) has ended")
        return process

    def leave(self) -> None:
        """Let it run on when this process, or this loop, ends; it is still reaped if it ends before."""
        if self.returncode is None and not self._ended.is_set():
            _left[self.pid] = self

    def _watch(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        if not hasattr(os, "pidfd_open"):  # macOS
            self._waiter = self._loop.create_task(self._wait_in_thread())
            return
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._end)

    def _end(self) -> None:
        self._forget()
        if self._popen is not None:
            self._popen.wait()
        _left.pop(self.pid, None)
        self._ended.set()

    def _forget(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    async def _wait_in_thread(self) -> None:
        if self._popen is not None:
            await self._loop.run_in_executor(None, self._popen.wait)
        self._ended.set()

    @property
    def returncode(self) -> int | None:
        """Its exit status, or minus the signal that ended it; None while it runs, and for what was no child."""
        return None if self._popen is None else self._popen.returncode

    async def wait(self) -> int | None:
        """Wait until it has ended, and been reaped if it is a child."""
        await self._ended.wait()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._ended.is_set():
            return
        if self._popen is not None:
            self._popen.send_signal(number)
        else:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def kill(self) -> int | None:
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


#: Children that may outlive us and that nobody has in charge; a child that ends has to be reaped all the same.
_left: Final[dict[int, Process]] = {}


def _forget_in_child() -> None:
    """A child of fork has the objects, and is nobody's parent."""
    _left.clear()


os.register_at_fork(after_in_child=_forget_in_child)
