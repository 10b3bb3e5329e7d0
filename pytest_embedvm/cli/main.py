"""The command `embedvm`. Each command is a module, which imports what it needs when it runs: the start stays fast."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, Protocol

from pytest_embedvm import __version__
from pytest_embedvm.cli import cache, console, explain, log, ps, purge, qmp, run, screenshot, stop, xml
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.errors import EmbedError

#: What a shell gives for a command that SIGINT ended.
INTERRUPTED: Final = 130


class Command(Protocol):
    """A module of this room that is a command."""

    def add(self, subparsers: Any, /) -> None:
        """Declare it: its name, its arguments, and `run` as the default of `run`."""

    def run(self, args: argparse.Namespace, /) -> int:
        """Do it, and return the exit status.

        :raise CommandFailed: when it cannot be done.
        """


#: In the order of `embedvm --help`.
COMMANDS: Final[tuple[Command, ...]] = (run, ps, console, qmp, screenshot, log, xml, stop, purge, cache, explain)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 when it failed, 2 when it was not understood."""
    args = _parse(_parser(), argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except (CommandFailed, EmbedError) as error:
        print(f"embedvm {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `embedvm log | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a log, a socket, a process that was there a moment ago
        print(f"embedvm {args.command}: {error.filename or 'system'}: {error.strerror}", file=sys.stderr)
        return 1
    return status


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """What ARGV says; words may go on after an option, which argparse leaves over: `embedvm qmp vm --hmp info name`."""
    args, over = parser.parse_known_args(argv)
    if over and ("words" not in args or any(word.startswith("-") for word in over)):
        parser.error(f"unrecognized arguments: {' '.join(over)}")
    if over:
        args.words = [*args.words, *over]
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embedvm", description="Look into the virtual machines of pytest-embedvm, from another shell."
    )
    parser.add_argument("--version", action="version", version=f"pytest-embedvm {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(subparsers)
    return parser
