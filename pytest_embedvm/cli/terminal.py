"""The terminal, raw for a while, and as it was again however that ends."""

from __future__ import annotations

import os
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


@contextmanager
def passing_keys(descriptor: int) -> Iterator[bool]:
    """Have the terminal DESCRIPTOR pass each key on as it is typed, but those of SIGINT and SIGQUIT (Ctrl-C).

    What is no terminal, or another job's, is left alone; whether it is ours to read is what this gives. It is restored
    when this context is left, so those signals must not end the process.
    """
    if not os.isatty(descriptor) or not _foreground(descriptor):
        yield not os.isatty(descriptor)
        return
    before = termios.tcgetattr(descriptor)
    tty.setraw(descriptor, termios.TCSANOW)
    after = termios.tcgetattr(descriptor)
    after[1] = before[1]  # our own messages are lines
    after[3] |= termios.ISIG
    after[6][termios.VSUSP] = b"\0"  # Ctrl-Z is the guest's: a stopped runner would be of no use
    try:
        termios.tcsetattr(descriptor, termios.TCSANOW, after)
        yield True
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def _foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # a terminal that controls no job
        return True
