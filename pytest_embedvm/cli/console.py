"""`embedvm console`: what a VM's console says, and typing at it, beside the test that reads it."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.cli import chardevs, terminal
from pytest_embedvm.cli.choosing import add_target, machine
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.following import Growth
from pytest_embedvm.cli.machines import Machine, look

#: Ctrl-], as telnet and `virsh console` have it.
LEAVE: Final = b"\x1d"
#: How much of what was said before is shown.
BEFORE_BYTES: Final = 2048
_READ_BYTES: Final = 4096
#: What was typed and the guest has not read: beyond this nothing more is taken.
_PENDING_BYTES: Final = 65536


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "console",
        help="follow a VM's console, and type at it",
        description="Show the end of what a console has said and go on until the VM ends or Ctrl-] is typed. What is "
        "typed goes to the guest; the test still reads all that the guest says.",
    )
    add_target(parser, "[DEVICE]", "alias of the console, the first unless told")
    parser.add_argument("--read-only", action="store_true", help="only look")
    parser.add_argument("--all", action="store_true", help="show it from the start")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found, rest = machine(args.words)
    if len(rest) > 1:
        raise CommandFailed(f"one device at most, not {' '.join(rest)}")
    console = chardevs.console(found, *rest)
    with contextlib.ExitStack() as stack:
        growth = stack.enter_context(Growth(console.log))
        if not args.all:
            growth.skip(BEFORE_BYTES)
        pidfd = found.pidfd()
        stack.callback(os.close, pidfd)
        guest = None if args.read_only else stack.enter_context(_Typing(found, console))
        if sys.stdin.isatty():
            stack.enter_context(terminal.raw(sys.stdin.fileno()))
        print(f"{found.name}: {console.alias}; Ctrl-] leaves", end="\r\n", file=sys.stderr, flush=True)
        ended = _Session(growth, pidfd, guest).run()
    print(f"\ndomain '{found.name}' has ended" if ended else "", file=sys.stderr)
    return 0


class _Typing:
    """The guest's end of a console that is a pseudo-terminal."""

    def __init__(self, found: Machine, console: chardevs.Console) -> None:
        """:raise CommandFailed: when the console is none, or cannot be opened."""
        if console.kind != "pty":
            raise CommandFailed(f"{console.alias} is no pty but a {console.kind}: --read-only shows what it says")
        if console.path is None:
            raise CommandFailed(f"{console.alias} has no terminal yet: its domain is being started")
        self._path = console.path
        holder = look(found.root).holder
        self._owner = holder.pid if holder else None
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CommandFailed(f"cannot open {self._path}: {error.strerror}") from None
        self.pending = b""

    def __enter__(self) -> _Typing:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    @property
    def events(self) -> int:
        """What to wait for: that it takes what is typed; and what it says, if nobody else reads that."""
        return (select.POLLOUT if self.pending else 0) | (0 if self._read_by_owner() else select.POLLIN)

    def _read_by_owner(self) -> bool:
        """Whether the process that has the root open reads the console; if nobody did, the guest would stall."""
        for link in Path(f"/proc/{self._owner}/fd").iterdir() if self._owner else ():
            with contextlib.suppress(OSError):
                if link.readlink() == self._path:
                    return True
        return False

    def serve(self, ready: int) -> None:
        """Write what is pending; drop what the guest says, which is in the log already."""
        with contextlib.suppress(OSError):  # BlockingIOError; EIO when QEMU has ended, which its pidfd says too
            if ready & select.POLLIN and not self._read_by_owner():
                os.read(self._descriptor, _READ_BYTES)
            if ready & select.POLLOUT:
                self.pending = self.pending[os.write(self._descriptor, self.pending) :]


class _Session:
    """A terminal and a console, joined."""

    def __init__(self, growth: Growth, pidfd: int, guest: _Typing | None) -> None:
        self._growth = growth
        self._pidfd = pidfd
        self._guest = guest
        self._typing = guest is not None or sys.stdin.isatty()

    def run(self) -> bool:
        """Until the VM ends (True) or somebody leaves."""
        ready: dict[int, int] = {}
        while True:
            for data in self._growth.read():
                sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
            if self._pidfd in ready:
                return True
            if self._guest and self._guest.fileno() in ready:
                self._guest.serve(ready[self._guest.fileno()])
            if sys.stdin.fileno() in ready and not self._take():
                return False
            ready = dict(self._poll().poll())

    def _poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._growth.fileno(), select.POLLIN)
        poll.register(self._pidfd, select.POLLIN)
        if self._guest and (events := self._guest.events):
            poll.register(self._guest.fileno(), events)
        if self._typing and not (self._guest and len(self._guest.pending) > _PENDING_BYTES):
            poll.register(sys.stdin.fileno(), select.POLLIN)
        return poll

    def _take(self) -> bool:
        """Take what was typed; False when that was to leave."""
        data = os.read(sys.stdin.fileno(), _READ_BYTES)
        keys, leave, _ = data.partition(LEAVE) if sys.stdin.isatty() else (data, b"", b"")
        if self._guest:
            self._guest.pending += keys
        elif b"\x03" in keys:  # Ctrl-C has nobody else to go to
            return False
        self._typing = bool(data)
        return not leave
