"""A guest's console, joined to this process's standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from pytest_embedvm.cli import terminal
from pytest_embedvm.driver.console import ConsoleLink
from pytest_embedvm.errors import SystemFailure

STDIN: Final = 0
STDOUT: Final = 1
PIECE_BYTES: Final = 64 * 1024
#: How long a console may take to end once its domain has.
DRAIN_TIMEOUT_S: Final = 5.0


class Forwarding:
    """What the guest writes goes to the standard output, what is typed goes to the guest, byte by byte.

    A terminal passes every key on but those that make signals (Ctrl-C); it is as it was afterwards.
    """

    def __init__(self, link: ConsoleLink, log: Path | None) -> None:
        """:param log: where QEMU writes what the guest does, too; the guest does not run yet."""
        self._link = link
        self._log = log
        #: How far the log is shown.
        self._shown = log.stat().st_size if log else 0
        self._writer = _Aside("embedvm-output")
        self._stack = contextlib.AsyncExitStack()
        #: Ends when the console does, or when nobody reads the standard output any more.
        self.output: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        self._stack.callback(self._writer.close)
        self._stack.push_async_callback(self._link.close)
        ours = self._stack.enter_context(terminal.passing_keys(STDIN))
        self.output = asyncio.ensure_future(self._show())
        self._stack.callback(self.output.cancel)
        if ours:  # a job in the background that reads its terminal is stopped
            self._stack.callback(asyncio.ensure_future(self._type()).cancel)
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def drain(self) -> None:
        """Show all that the guest wrote, now that its domain has ended.

        :raise BrokenPipeError: when nobody reads it.
        """
        await asyncio.wait({self.output}, timeout=DRAIN_TIMEOUT_S)
        if self.output.done():
            self.output.result()
        if self._log:
            # What was in a pseudo-terminal when QEMU ended is gone with it.
            with self._log.open("rb") as file:
                file.seek(self._shown)
                await self._write(file.read())

    async def _show(self) -> None:
        while data := await self._link.read(PIECE_BYTES):
            self._shown += len(data)
            await self._write(data)

    async def _write(self, data: bytes) -> None:
        while data:
            data = data[await self._writer.call(os.write, STDOUT, data) :]

    async def _type(self) -> None:
        reader = _Aside("embedvm-input")
        try:
            while data := await reader.call(os.read, STDIN, PIECE_BYTES):
                await self._link.write(data)
        except (SystemFailure, OSError):
            pass  # the console, or the standard input, is closed
        finally:
            reader.close()


class _Aside:
    """A thread for calls that may block as long as they like: nobody waits for it when the process ends."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None]
        self._calls = queue.SimpleQueue()
        threading.Thread(target=self._main, name=name, daemon=True).start()

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of FUNCTION, or what it raises of OSError."""
        future = self._loop.create_future()
        self._calls.put((future, function, arguments))
        return await future

    def close(self) -> None:
        """No more calls; the thread ends with the last one."""
        self._calls.put(None)

    def _main(self) -> None:
        while (item := self._calls.get()) is not None:
            future, function, arguments = item
            try:
                settle, outcome = future.set_result, function(*arguments)
            except OSError as error:
                settle, outcome = future.set_exception, error
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(self._settle, future, settle, outcome)

    @staticmethod
    def _settle(future: asyncio.Future[Any], settle: Callable[[Any], None], outcome: Any) -> None:
        if not future.done():  # else nobody waits any more
            settle(outcome)
