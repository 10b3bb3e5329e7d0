"""Waiting at a failed test, so that somebody can look at its machines before they end."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_embedvm.api.evidence import evidence
from pytest_embedvm.driver.start import DOOR
from pytest_embedvm.driver.uri import parse_uri
from pytest_embedvm.guest.wait import if_connected
from pytest_embedvm.libvirt import VIR_CONNECT_LIST_DOMAINS_ACTIVE
from pytest_embedvm.plugin.artifacts import CONNECTIONS

if TYPE_CHECKING:
    from _pytest.capture import CaptureManager
    from _pytest.terminal import TerminalReporter

    from pytest_embedvm.driver.evidence import Evidence
    from pytest_embedvm.libvirt import virConnect


def pause(item: pytest.Item, report: pytest.CollectReport | pytest.TestReport, *, wait: bool) -> None:
    """Say what can be typed elsewhere to look at the machines of ITEM; unless WAIT is false, wait for Enter.

    A test that has opened no connection is let go on.

    :raise KeyboardInterrupt: at Ctrl-C, which ends the session as ever.
    """
    commands = list(_commands(item))
    terminal: TerminalReporter | None = item.config.pluginmanager.getplugin("terminalreporter")
    if not commands or terminal is None:
        return
    capture: CaptureManager | None = item.config.pluginmanager.getplugin("capturemanager")
    if capture:
        capture.suspend_global_capture(in_=True)
    try:
        terminal.write_line("")
        terminal.write_line(f"embedvm: {_failure(item, report)}")
        terminal.write_line("embedvm: its machines are as it left them; from another shell:")
        for command in commands:
            terminal.write_line(f"    {command}")
        if wait:
            _wait(terminal)
    finally:
        if capture:
            capture.resume_global_capture()


def _wait(terminal: TerminalReporter) -> None:
    if not sys.stdin.isatty():
        terminal.write_line("embedvm: not waiting: standard input is no terminal, nobody could press Enter")
        return
    terminal.write("embedvm: paused; Enter ends the machines and goes on ", flush=True)
    sys.stdin.readline()


def _failure(item: pytest.Item, report: pytest.CollectReport | pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    why = f": {crash.path}:{crash.lineno}: {crash.message.splitlines()[0]}" if crash and crash.message else ""
    return f"{item.nodeid} has failed{why}"


def _commands(item: pytest.Item) -> Iterator[str]:
    program = "embedvm" if shutil.which("embedvm") else f"{shlex.quote(sys.executable)} -m pytest_embedvm"
    for connection in item.stash.get(CONNECTIONS, []):
        with if_connected():
            yield from (f"{program} {command}" for command in _commands_of(connection))


def _commands_of(connection: virConnect) -> Iterator[str]:
    root = parse_uri(connection.getURI()).root
    running = {domain.name(): domain.ID() for domain in connection.listAllDomains(VIR_CONNECT_LIST_DOMAINS_ACTIVE)}
    for name, found in evidence(connection).items():
        for command in _useful(root, running.get(name), found):
            yield f"{command} {shlex.quote(str(root))} {shlex.quote(name)}"


def _useful(root: Path, number: int | None, found: Evidence) -> Iterator[str]:
    """Which commands are of use for a machine that runs under NUMBER, or has ended."""
    if number is not None and found.console_logs:
        yield "console"
    if number is not None and any(root.glob(f"lib/qemu/domain-{number}-*/{DOOR}")):
        yield "qmp"
    yield "log"
