"""`embedvm run`: one domain, from a file to its end."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.cli.source import read_xml

#: The exit status of a domain that had to be ended because its time was over, as coreutils' timeout has it.
TIMED_OUT: Final = 124

DESCRIPTION: Final = f"""\
Start the domain that DOMAIN.xml describes, join its console to this terminal, and end when it ends. It never outlives
this command, however that ends.

In the XML {{root}} stands for the root's path and {{cwd}} for the current directory.

exit status: 0 when the guest powered off, 1 when it or QEMU crashed or could not be started, 2 when the arguments are
wrong, {TIMED_OUT} when the time was over, 128+n when signal n ended this command (130 for Ctrl-C)."""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "run",
        help="run a domain XML until the guest powers off",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="DOMAIN.xml")
    parser.add_argument(
        "--root", type=Path, metavar="DIR", help="the virtual root; without it a private one is made, and purged"
    )
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="seconds after which the domain is destroyed")
    parser.add_argument("-v", "--verbose", action="store_true", help="say what is done, on standard error")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pytest_embedvm.cli.runner import Runner

    return Runner(read_xml(args.file), args.root, args.timeout, verbose=args.verbose).run()


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0 seconds, not {text}")
    return seconds


def say(sentence: str) -> None:
    """Tell the person at the terminal, whose standard output is the guest's."""
    print(f"embedvm run: {sentence}", file=sys.stderr, flush=True)
