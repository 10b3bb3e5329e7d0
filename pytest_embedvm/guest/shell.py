"""Commands in the guest, over its exec channel or its agent: no network is needed."""

from __future__ import annotations

import base64
import io
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.errors import AgentError, CommandFailed, CommandTimeout, GuestError, OutputTruncated
from pytest_embedvm.guest.exec_channel import ExecChannel
from pytest_embedvm.guest.exec_link import Outcome
from pytest_embedvm.guest.transfer import temporary_path, write_from
from pytest_embedvm.guest.wait import Deadline, Watch

#: pytest shows the line that called, not these.
__tracebackhide__ = True

TIMEOUT_S: Final = 60.0
#: How long a command that was killed may take to be gone, and its outputs to arrive.
KILL_TIMEOUT_S: Final = 5.0

#: Looking costs the guest about half a millisecond, and an emulated `true` takes ten.
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.02
PAUSE_GROWTH: Final = 1.5

#: More input goes through a file: the agent takes a command's as one line of JSON, all of which it has to hold.
INPUT_BYTES: Final = 1024 * 1024

#: A shell's status for a command that cannot be found or started.
NOT_FOUND: Final = 127
_NOT_STARTED: Final = "Failed to execute child process"

#: Ends the process $1 and all its descendants; each is stopped first, so that it cannot have more children meanwhile.
_END: Final = """
end() {
    kill -STOP "$1"
    for child in $(cat /proc/"$1"/task/*/children); do end "$child"; done
    kill -KILL "$1"
}
end "$1" 2>/dev/null
"""


@dataclass(frozen=True)
class RunResult:
    """How a command ended. `returncode` is its exit status, or minus the number of the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """`stdout` as UTF-8, what is none replaced."""
        return self.stdout.decode(errors="replace")

    @property
    def err(self) -> str:
        """`stderr` as UTF-8, what is none replaced."""
        return self.stderr.decode(errors="replace")


@dataclass(frozen=True)
class Command:
    """What to run in the guest, in which surroundings."""

    argv: tuple[str, ...]
    input: bytes | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None

    @classmethod
    def read(
        cls,
        command: Sequence[str] | str,
        data: bytes | str | None,
        env: Mapping[str, str] | None,
        cwd: str | None,
    ) -> Command:
        """What the user wrote.

        :raise GuestError: when there is no word, a word has a NUL, or a variable a name that cannot be one.
        """
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(map(str, command))
        if not argv:
            raise GuestError("an empty command cannot be run")
        env = dict(env or {})
        for word in (*argv, *env, *env.values(), cwd or ""):
            if "\0" in word:
                raise GuestError(f"{word!r}: a command cannot have NUL in it")
        for name in env:
            if not name or "=" in name:
                raise GuestError(f"{name!r} cannot be the name of an environment variable")
        return cls(argv, data.encode() if isinstance(data, str) else data, env, cwd)

    @property
    def words(self) -> tuple[str, ...]:
        """The command behind what sets its surroundings, where it has any of its own."""
        words = self.argv
        if self.env:
            # The agent could set variables too, but then these would be all.
            words = ("env", *(f"{name}={value}" for name, value in self.env.items()), *words)
        if self.cwd is not None:
            words = ("/bin/sh", "-c", 'cd -- "$0" && exec "$@"', self.cwd, *words)
        return words

    def __str__(self) -> str:
        return shlex.join(self.argv)


class Shell:
    """Runs commands in one guest."""

    def __init__(self, channel: ExecChannel, agent: Agent, watch: Watch) -> None:
        self._channel = channel
        self._agent = agent
        self._watch = watch

    def run(self, command: Command, deadline: Deadline, *, check: bool = True) -> RunResult:
        """Run COMMAND and wait until it has ended and closed its outputs; errors as `VM.run`."""
        outcome = self._channel.run(command.words, command.input, f"the end of {command}", deadline)
        result = self._by_agent(command, deadline) if outcome is None else _read(command.argv, outcome)
        if check and result.returncode:
            raise CommandFailed(result.argv, result.returncode, result.stdout, result.stderr)
        return result

    def _by_agent(self, command: Command, deadline: Deadline) -> RunResult:
        words, data = self._fed(command, deadline)
        try:
            pid = self._start(words, data, deadline)
        except AgentError as error:
            if _NOT_STARTED not in error.detail:
                raise
            return RunResult(command.argv, NOT_FOUND, b"", error.detail.encode())
        status = self._status(pid, f"the end of {command}", deadline)
        if status is None:
            raise self._killed(command, pid, deadline)
        return _result(command.argv, status)

    def _fed(self, command: Command, deadline: Deadline) -> tuple[tuple[str, ...], bytes | None]:
        """The words to run, and the input to give them; much of it is put into a file, which goes as it is opened."""
        words, data = command.words, command.input
        if data is None or len(data) <= INPUT_BYTES:
            return words, data
        path = temporary_path()
        write_from(self._agent, path, io.BytesIO(data), deadline)
        return ("/bin/sh", "-c", 'exec <"$0" && rm -f "$0" && exec "$@"', path, *words), None

    def _start(self, words: tuple[str, ...], data: bytes | None, deadline: Deadline) -> int:
        arguments: dict[str, Any] = {"path": words[0], "arg": list(words[1:]), "capture_output": True}
        if data:
            arguments["input_data"] = base64.b64encode(data).decode()
        return int(self._agent.call("guest-exec", deadline, **arguments)["pid"])

    def _status(self, pid: int, awaited: str, deadline: Deadline) -> dict[str, Any] | None:
        """How the process PID ended; None when it has not, at the deadline."""
        pause = FIRST_PAUSE_S
        while deadline.remaining:
            self._watch.pause(awaited, min(pause, deadline.remaining))
            # A busy guest may answer a moment after the deadline; that the agent is dead is another matter.
            patience = Deadline(deadline.remaining + KILL_TIMEOUT_S)
            status: dict[str, Any] = self._agent.call("guest-exec-status", patience, pid=pid)
            if status["exited"]:
                return status
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)
        return None

    def _killed(self, command: Command, pid: int, deadline: Deadline) -> CommandTimeout:
        """Kill the process PID with its descendants, and say what it had written."""
        waited = self._watch.timeout(f"the end of {command}", deadline.seconds)
        limit = Deadline(KILL_TIMEOUT_S)
        killer = self._start(("/bin/sh", "-c", _END, "sh", str(pid)), None, limit)
        self._status(killer, "the end of kill", limit)
        # Outputs come once the process has ended and nobody else holds them open.
        last = self._status(pid, waited.awaited, limit) or {}
        return CommandTimeout(command.argv, *_outputs(last), waited)


def _outputs(status: Mapping[str, Any]) -> tuple[bytes, bytes]:
    stdout, stderr = (base64.b64decode(status.get(f"{name}-data", "")) for name in ("out", "err"))
    return stdout, stderr


def _result(argv: tuple[str, ...], status: Mapping[str, Any]) -> RunResult:
    stdout, stderr = _outputs(status)
    if status.get("out-truncated") or status.get("err-truncated"):
        raise OutputTruncated(argv, stdout, stderr)
    returncode = -int(status["signal"]) if "signal" in status else int(status.get("exitcode", 0))
    return RunResult(argv, returncode, stdout, stderr)


def _read(argv: tuple[str, ...], outcome: Outcome) -> RunResult:
    """What the exec channel says, in the agent's words."""
    if outcome.timeout is not None:
        raise CommandTimeout(argv, outcome.stdout, outcome.stderr, outcome.timeout)
    if outcome.truncated:
        raise OutputTruncated(argv, outcome.stdout, outcome.stderr)
    if outcome.error is not None:
        # GLib: g_spawn_async_with_pipes
        words = f"{_NOT_STARTED} “{argv[0]}” ({os.strerror(outcome.error)})"
        return RunResult(argv, NOT_FOUND, b"", words.encode())
    return RunResult(argv, outcome.returncode or 0, outcome.stdout, outcome.stderr)
