"""`embedvm stop`: the end of a VM."""

from __future__ import annotations

import argparse
import os
import select
import signal
from typing import Any, Final

from pytest_embedvm.cli.choosing import add_target, only_machine
from pytest_embedvm.cli.door import Door
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine

#: How long QEMU may take to write its images back.
GRACEFUL_TIMEOUT_S: Final = 15.0  # libvirt: virProcessKillPainfully
FORCED_TIMEOUT_S: Final = 10.0


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "stop",
        help="end a VM at once",
        description="End a VM without asking its guest: QEMU is told to quit, and killed if it has not after 15 s. "
        "Whoever started it sees it stop.",
    )
    add_target(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    machine = only_machine(args.words)
    pidfd = machine.pidfd()
    try:
        how = _end(machine, pidfd)
    finally:
        os.close(pidfd)
    print(f"domain '{machine.name}' of {machine.root}: process {machine.pid} has {how}")
    return 0


def _end(machine: Machine, pidfd: int) -> str:
    _ask(machine, pidfd)
    if _ends(pidfd, GRACEFUL_TIMEOUT_S):
        return "ended"
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if _ends(pidfd, FORCED_TIMEOUT_S):
        return f"been killed: it did not quit within {GRACEFUL_TIMEOUT_S:g} s"
    raise CommandFailed(f"process {machine.pid} is still there {FORCED_TIMEOUT_S:g} s after SIGKILL")


def _ask(machine: Machine, pidfd: int) -> None:
    """Tell QEMU to quit: at the door, or where that is shut by the signal that means the same."""
    try:
        with Door.open(machine.door) as door:
            door.execute("quit")
            # QEMU drops what it has not read yet when its visitor leaves.
            door.wait_closed(GRACEFUL_TIMEOUT_S)
    except CommandFailed:
        if not _ends(pidfd, 0):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)


def _ends(pidfd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))
