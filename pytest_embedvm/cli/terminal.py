"""The terminal, raw for a while, and as it was again however that ends."""

from __future__ import annotations

import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

#: Signals that would end the process before the terminal is as it was.
_ENDS: Final = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Make the terminal DESCRIPTOR raw: no echo, no line editing, no signals from keys.

    It is restored before this process ends by an error or by a signal that can be caught.
    """
    before = termios.tcgetattr(descriptor)
    handlers = {number: signal.signal(number, _leave) for number in _ENDS}
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
