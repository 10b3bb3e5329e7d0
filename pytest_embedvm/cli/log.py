"""`embedvm log`: what QEMU itself has said."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pytest_embedvm.cli import choosing
from pytest_embedvm.cli.following import Growth, follow
from pytest_embedvm.cli.machines import Machine


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "log",
        help="what QEMU said: its command lines and its standard error",
        description="Print the log of a VM, of one that has ended too: for each start the command line, and what "
        "QEMU wrote to its standard error.",
    )
    choosing.add_target(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the VM ends")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = choosing.log(args.words)
    if not args.follow or found.machine is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(found.path.read_bytes())
        return 0
    _follow(found.machine, Growth(found.path))
    return 0


def _follow(machine: Machine, growth: Growth) -> None:
    pidfd = machine.pidfd()
    try:
        with growth:
            for data in follow(growth, pidfd):
                sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
    finally:
        os.close(pidfd)
