"""A word to whoever waits at the terminal, while a test's own output is captured."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import pytest

if TYPE_CHECKING:
    from _pytest.capture import CaptureManager
    from _pytest.terminal import TerminalReporter


def teller(config: pytest.Config) -> Callable[[str], None]:
    """What writes a sentence to the terminal, a line of its own; nothing with -q, or on another thread than the tests'.

    A worker of pytest-xdist has no terminal, and writes to the standard error that it has from its controller.
    """

    def tell(sentence: str) -> None:
        if config.get_verbosity() < 0 or threading.current_thread() is not threading.main_thread():
            return
        manager = cast("CaptureManager | None", config.pluginmanager.getplugin("capturemanager"))
        with manager.global_and_fixture_disabled() if manager else contextlib.nullcontext():
            _write(config, f"embedvm: {sentence}")

    return tell


def _write(config: pytest.Config, line: str) -> None:
    reporter = cast("TerminalReporter | None", config.pluginmanager.getplugin("terminalreporter"))
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        sys.stderr.write(f"{worker['workerid']}: {line}\n")
        sys.stderr.flush()
    elif reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(line)
