"""What can go wrong with a guest; each error carries its evidence."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Final

#: How much of a command's outputs an error's message shows.
LAST_LINES: Final = 20


def last_lines(data: bytes | str, count: int = LAST_LINES) -> list[str]:
    """The last COUNT lines of DATA."""
    text = data if isinstance(data, str) else data.decode(errors="replace")
    return text.splitlines()[-count:]


def section(title: str, data: bytes | str) -> str:
    """TITLE and the last lines of DATA, indented, to go at the end of a message."""
    lines = last_lines(data)
    if not lines:
        return f"\n{title}: empty"
    return f"\n{title}, the end of it:\n" + "\n".join(f"    {line}" for line in lines)


class GuestError(Exception):
    """Base of all errors of this room."""


class ForeignProcess(GuestError):
    """A forked child asks a VM of its parent's, which alone has the threads that listen to it."""


class WaitTimeout(GuestError, TimeoutError):
    """What was awaited did not come in time. The message says what, and shows the end of the console.

    `awaited` is what was awaited, `seconds` how long, `console` the text of the console so far.
    """

    def __init__(self, awaited: str, seconds: float, state: str, console: str) -> None:
        self.awaited = awaited
        self.seconds = seconds
        self.console = console
        super().__init__(f"{awaited} did not come within {seconds:g} s; the guest {state}{section('console', console)}")


class GuestStopped(GuestError):
    """The guest ended, panicked or rebooted, so what was awaited cannot come.

    `awaited` is what was awaited, `reason` what became of the guest, `console` the text of its console.
    """

    def __init__(self, awaited: str, reason: str, console: str) -> None:
        self.awaited = awaited
        self.reason = reason
        self.console = console
        super().__init__(f"the guest {reason} while {awaited} was awaited{section('console', console)}")


class AgentError(GuestError):
    """The guest agent refused a command or does not answer; `command` is its name, `detail` says why."""

    def __init__(self, command: str, detail: str) -> None:
        self.command = command
        self.detail = detail
        super().__init__(f"the guest agent's {command}: {detail}")


class AgentAbsent(AgentError):
    """There is no agent in the guest yet, or any more, or what there was went away with the question."""


class ServerAbsent(AgentAbsent):
    """The built-in guest's own server for commands went away with the command."""

    def __init__(self) -> None:
        self.command = "exec"
        self.detail = "the guest's server for commands went away"
        GuestError.__init__(self, self.detail)


class GuestFileError(GuestError):
    """A file in the guest cannot be read or written; `path` is which, `detail` the guest's own words."""

    def __init__(self, path: str, detail: str) -> None:
        self.path = path
        self.detail = detail
        super().__init__(f"{path}: {detail}")


class NoCard(GuestError):
    """A VM has not the network card that is meant; `vm` is its name."""

    def __init__(self, vm: str, detail: str, cards: Iterable[str]) -> None:
        self.vm = vm
        super().__init__(f"{vm} {detail}; its network cards: {', '.join(cards) or 'none'}")


class NoProgram(GuestError):
    """A program cannot be put into the guest; the message says what to install on the host."""


class CommandFailed(GuestError):
    """A command in the guest ended with another status than 0; by a signal, then `returncode` is minus its number."""

    def __init__(self, argv: Sequence[str], returncode: int, stdout: bytes, stderr: bytes) -> None:
        self.argv = tuple(argv)
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
        how = f"exited with status {returncode}" if returncode >= 0 else f"was ended by signal {-returncode}"
        super().__init__(f"{shlex.join(argv)} {how}{section('stdout', stdout)}{section('stderr', stderr)}")


class OutputTruncated(GuestError):
    """A command wrote more than the guest agent keeps, 16 MiB each way; what is here is the beginning."""

    def __init__(self, argv: Sequence[str], stdout: bytes, stderr: bytes) -> None:
        self.argv = tuple(argv)
        self.stdout = stdout
        self.stderr = stderr
        super().__init__(
            f"{shlex.join(argv)} wrote more than the 16 MiB that the guest agent keeps "
            f"(stdout {len(stdout)} bytes, stderr {len(stderr)} bytes came); write it to a file and pull that"
        )


class CommandTimeout(WaitTimeout):
    """A command did not end in time and was killed; `stdout` and `stderr` are what it had written."""

    def __init__(self, argv: Sequence[str], stdout: bytes, stderr: bytes, waited: WaitTimeout) -> None:
        self.argv = tuple(argv)
        self.stdout = stdout
        self.stderr = stderr
        self.awaited = waited.awaited
        self.seconds = waited.seconds
        self.console = waited.console
        Exception.__init__(self, f"{waited}{section('stdout', stdout)}{section('stderr', stderr)}")


class CannotClone(GuestError):
    """A guest cannot become a template, or no clones can be made of one; the message is the reason, half a sentence."""


class CannotRestore(GuestError):
    """A clone did not go on where its template was stopped: there is something wrong with the template."""
