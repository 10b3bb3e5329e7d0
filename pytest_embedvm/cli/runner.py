"""One domain from its start to its end, in this process's own event loop: so a signal reaches it between two steps."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from pytest_embedvm.cli.forwarding import Forwarding
from pytest_embedvm.cli.run import TIMED_OUT, say
from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainEventID,
    DomainEventShutdownDetailType,
    DomainEventStoppedDetailType,
    DomainEventType,
)
from pytest_embedvm.domain.consoles import consoles
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.events import Event, Lifecycle
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.uri import make_uri, parse_uri
from pytest_embedvm.errors import InternalError
from pytest_embedvm.qemu.monitor import MonitorClosed

#: The CPUs wait until the console is joined: no word of the guest's is lost. It dies with this process.
START: Final = DomainCreateFlags.START_PAUSED | DomainCreateFlags.START_AUTODESTROY
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
#: How much of QEMU's log is shown after a crash.
LAST_LINES: Final = 10

Stopped = DomainEventStoppedDetailType


class Runner:
    """What `embedvm run` does, once its arguments are understood."""

    def __init__(self, xml: str, root: Path | None, timeout: float | None, *, verbose: bool) -> None:
        """:param root: None: a private one.
        :param timeout: seconds that the domain may take, its start included.
        """
        self._xml = xml
        self._root = root
        self._timeout = timeout
        self._verbose = verbose
        self._signal: int | None = None
        #: Whether the domain's end is being cleaned up, which nothing interrupts.
        self._leaving = False
        self._lifecycle: asyncio.Queue[tuple[Machine, Lifecycle]] = asyncio.Queue()

    def run(self) -> int:
        """The exit status.

        :raise EmbedError: when the root cannot be opened, or the domain not started.
        :raise BrokenPipeError: when nobody reads the standard output any more.
        """
        return asyncio.run(self._main())

    def _tell(self, sentence: str) -> None:
        if self._verbose:
            say(sentence)

    async def _main(self) -> int:
        with self._signals():
            try:
                return await self._life()
            except asyncio.CancelledError:
                if self._signal is None:
                    raise
                return 128 + self._signal

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal cancels what runs; those after it wait until that has cleaned up."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end(number: int) -> None:
            if not (self._signal or self._leaving) and task is not None:
                self._signal = number
                self._tell(f"destroying the domain: {signal.Signals(number).name}")
                task.cancel()

        # Under nohup the end of the terminal is not this command's.
        heard = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]
        for number in heard:
            loop.add_signal_handler(number, end, number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)

    async def _life(self) -> int:
        with self._place() as place:
            async with self._open(place) as (driver, client):
                try:
                    async with asyncio.timeout(self._timeout) as limit:
                        machine = await driver.create_xml(fill(self._xml, driver.root.path), START, client)
                        self._tell(f"domain '{machine.name}' runs: {machine.evidence().command_line}")
                        return await self._watch(machine)
                except TimeoutError:
                    if not limit.expired():
                        raise
                    say(f"destroyed: it did not end within {self._timeout:g} s")
                    return TIMED_OUT

    @contextlib.contextmanager
    def _place(self) -> Iterator[Path]:
        """The root's directory; a private one ends with this."""
        if self._root is not None:
            yield self._root.absolute()
            return
        path = Path(tempfile.mkdtemp(prefix="embedvm-run-")).resolve()
        index.dispose(path)  # should we be killed, `embedvm purge` takes it
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            self._tell(f"purged {path}")

    @contextlib.asynccontextmanager
    async def _open(self, place: Path) -> AsyncIterator[tuple[Driver, Client]]:
        uri = make_uri(place)
        driver, client = await Driver.open(uri), Client(uri=parse_uri(uri))
        try:
            self._tell(f"opened {uri}")
            loop = asyncio.get_running_loop()

            def hear(machine: Machine, event: Event) -> None:
                if isinstance(event, Lifecycle):
                    loop.call_soon_threadsafe(self._lifecycle.put_nowait, (machine, event))

            driver.events.register(DomainEventID.LIFECYCLE, None, hear)
            yield driver, client
        finally:
            self._leaving = True
            await driver.close(client)
            if self._root is None:
                driver.root.purge()

    async def _watch(self, machine: Machine) -> int:
        """Join the console, let the guest run, and wait until it has ended."""
        async with contextlib.AsyncExitStack() as stack:
            try:
                link = await machine.open_console(None)
                console = await stack.enter_async_context(Forwarding(link, _log(machine)))
            except InternalError as error:
                self._tell(f"no console to join: {error.detail}")
                console = None
            with contextlib.suppress(MonitorClosed):  # it ran, and is gone before it could say so: the event tells how
                await machine.resume()
            status = await self._ended(machine, console)
            if machine.active:  # its guest panicked, and is to be preserved, which nobody could look at
                await machine.destroy()
            if console:
                await console.drain()
            return status

    async def _ended(self, machine: Machine, console: Forwarding | None) -> int:
        ended = asyncio.ensure_future(self._ending(machine))
        try:
            if console:
                await asyncio.wait({ended, console.output}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    console.output.result()
            return await ended
        finally:
            ended.cancel()

    async def _ending(self, machine: Machine) -> int:
        """Wait for the event that is the end, and judge it."""
        by_guest = False
        while True:
            whose, event = await self._lifecycle.get()
            if whose is not machine:  # of the same root
                continue
            if event.event is DomainEventType.SHUTDOWN:
                by_guest = event.detail == DomainEventShutdownDetailType.GUEST
            elif event.event is DomainEventType.CRASHED and machine.action("on_crash") == "preserve":
                return self._failed(machine, "the guest panicked")
            elif event.event is DomainEventType.STOPPED:
                return self._judge(machine, Stopped(event.detail), by_guest=by_guest)

    def _judge(self, machine: Machine, detail: Stopped, *, by_guest: bool) -> int:
        if detail is Stopped.SHUTDOWN and by_guest:
            self._tell("the guest powered off")
            return 0
        causes = {
            Stopped.SHUTDOWN: "QEMU was ended from outside",
            Stopped.CRASHED: "the guest panicked",
            Stopped.FAILED: "QEMU crashed or was killed",
        }
        return self._failed(machine, causes.get(detail, f"the domain stopped: {detail.name}"))

    def _failed(self, machine: Machine, why: str) -> int:
        lines = machine.evidence().qemu_log_tail.splitlines()[-LAST_LINES:]
        say("\n  ".join([f"{why}; the end of QEMU's log:" if lines else f"{why}; QEMU's log is empty", *lines]))
        return 1


def _log(machine: Machine) -> Path | None:
    """Where QEMU writes what the guest writes to its first console."""
    logs = machine.evidence().console_logs
    return next((logs.get(console.alias) for console in consoles(machine.live)), None) if machine.live else None


def fill(xml: str, root: Path) -> str:
    """XML with {root} and {cwd} replaced by what they stand for, as XML spells it. Other braces stay."""
    values = {"root": root, "cwd": Path.cwd()}
    return re.sub(r"\{(root|cwd)\}", lambda found: escape(str(values[found[1]]), {"'": "&apos;", '"': "&quot;"}), xml)
