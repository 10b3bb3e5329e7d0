"""The programs that run beside a machine's QEMU: what they say, and that one of them has ended before it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Final

from pytest_embedvm.driver import logs
from pytest_embedvm.errors import InternalError
from pytest_embedvm.files import memory_file
from pytest_embedvm.logs import Log
from pytest_embedvm.qemu.process import Gate, Process

if TYPE_CHECKING:
    from pytest_embedvm.driver.running import Running

#: A companion ends when QEMU does, and may be heard of first; what ends so much earlier has ended by itself.
GRACE_S: Final = 1.0
#: The most of its words that are repeated.
LAST_WORDS_BYTES: Final = 4096


@dataclass(eq=False)
class Companion:
    """A program beside QEMU; `said` is its standard output and error, None for one that another process started."""

    process: Process
    said: IO[bytes] | None = None
    #: Where in it its own words begin, in bytes.
    start: int = 0
    #: Whether somebody waits for its end.
    watched: bool = False

    @property
    def name(self) -> str:
        return self.process.name

    @property
    def last_words(self) -> str:
        if self.said is None:
            return "what it said is not known"
        return last_words(self.said, self.start) or f"its exit status is {self.process.returncode}"


def last_words(said: IO[bytes], start: int = 0) -> str:
    """The end of what SAID holds from START on."""
    size = os.fstat(said.fileno()).st_size
    words = os.pread(said.fileno(), LAST_WORDS_BYTES, max(size - LAST_WORDS_BYTES, start))
    return words.decode(errors="replace").strip()


class Companions:
    """Those of one start of a machine."""

    def __init__(self, gate: Gate | None = None, *, outlives_parent: bool = False) -> None:
        """:param gate, outlives_parent: how each is spawned; see `Process.spawn`."""
        self._all: list[Companion] = []
        #: Where those wait that are started now.
        self.gate = gate
        self._outlives_parent = outlives_parent

    def __iter__(self) -> Iterator[Process]:
        return (companion.process for companion in self._all)

    def adopt(self, process: Process) -> None:
        """PROCESS was started by an earlier owner of the machine."""
        self._all.append(Companion(process))

    def start(
        self,
        name: str,
        argv: tuple[str, ...],
        ends: tuple[socket.socket, socket.socket],
        stack: contextlib.AsyncExitStack,
        passed: contextlib.ExitStack,
        *,
        said: IO[bytes] | None = None,
        more: Sequence[int] = (),
    ) -> int:
        """Start a program that holds the second of two ENDS, and return the first; it ends after QEMU.

        :param said: what it says is added to it; None: kept in memory.
        :param more: descriptors that it inherits, too.
        :raise SystemFailure: when it cannot be started.
        """
        said = said or stack.enter_context(memory_file(name))
        start = os.fstat(said.fileno()).st_size
        ours, theirs = ends
        passed.enter_context(ours)
        with theirs:
            words = [word.replace("{fd}", str(theirs.fileno())) for word in argv]
            process = Process.spawn(
                words,
                output=said,
                pass_fds=(theirs.fileno(), *more),
                gate=self.gate,
                outlives_parent=self._outlives_parent,
            )
        process.name = name
        self._all.append(Companion(process, said, start=start))
        self._end_with(self._all[-1], stack)
        return ours.fileno()

    def end_with(self, name: str, stack: contextlib.AsyncExitStack) -> None:
        """Those called NAME that were adopted end when STACK is unwound."""
        for companion in self._all:
            if companion.name == name:
                self._end_with(companion, stack)

    def _end_with(self, companion: Companion, stack: contextlib.AsyncExitStack) -> None:
        stack.push_async_callback(end, companion.process)
        stack.callback(self._all.remove, companion)  # before it is ended: nobody is to miss it

    def require(self) -> None:
        """:raise InternalError: when one has ended already; with its own words."""
        self._refuse(but=(None,))

    def require_sound(self) -> None:
        """QEMU has ended, which ends them, too.

        :raise InternalError: when one had failed by itself; with its own words.
        """
        self._refuse(but=(None, 0))

    def _refuse(self, but: tuple[int | None, ...]) -> None:
        for companion in self._all:
            if companion.process.returncode not in but:
                # libvirt: qemuPasstStart
                raise InternalError(f"Could not start '{companion.name}': {companion.last_words}")

    async def failures(self) -> str:
        """What those have said that failed, now that QEMU has ended; empty for none."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                for companion in self._all:
                    await companion.process.wait()
        failed = [companion for companion in self._all if companion.process.returncode]
        return "; ".join(f"{companion.name} has failed: {companion.last_words}" for companion in failed)

    def watch(self, running: Running, log: Log) -> None:
        """From now on, say in LOG and in the machine's own log when one ends before QEMU."""
        for companion in self._all:
            if not companion.watched:
                companion.watched = True
                running.background(asyncio.get_running_loop().create_task(self._watch(companion, running, log)))

    async def _watch(self, companion: Companion, running: Running, log: Log) -> None:
        await companion.process.wait()
        if companion not in self._all:
            return  # what it was for was unplugged
        try:
            async with asyncio.timeout(GRACE_S):
                await running.process.wait()
        except TimeoutError:
            sentence = f"{companion.name} has ended, and the machine runs on without it: {companion.last_words}"
            log.warning("%s", sentence)
            logs.note(log, running.log, sentence)


async def end(process: Process) -> None:
    """End a companion whose QEMU is gone: it may finish what it is writing."""
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        await process.kill()
