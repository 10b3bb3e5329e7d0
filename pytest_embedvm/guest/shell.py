"""Commands in the guest, over its agent: no network is needed."""

from __future__ import annotations

import base64
import shlex
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.errors import AgentError, CommandFailed, CommandTimeout, GuestError, OutputTruncated
from pytest_embedvm.guest.transfer import write
from pytest_embedvm.guest.wait import Deadline, Watch

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


class Shell:
    """Runs commands in one guest."""

    def __init__(self, agent: Agent, watch: Watch) -> None:
        self._agent = agent
        self._watch = watch

    def run(
        self,
        command: Sequence[str] | str,
        *,
        input: bytes | str | None = None,  # noqa: A002 - subprocess's name for it
        timeout: float = TIMEOUT_S,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> RunResult:
        """Run COMMAND as the agent's user, root mostly, and wait until it has ended and closed its outputs.

        :param command: the words of a command, or a script for the guest's /bin/sh.
        :param input: its standard input; without it, that is empty.
        :param timeout: seconds; then the command is killed with all its descendants.
        :param check: raise when it fails.
        :param env: variables to add to the agent's own.
        :param cwd: the directory to run it in, instead of the agent's.
        :raise CommandFailed: when CHECK and it ends with another status than 0. A command that cannot be
            started has status 127.
        :raise CommandTimeout: when it does not end in time; with what it wrote.
        :raise OutputTruncated: when it writes more than 16 MiB to one of its outputs.
        :raise GuestStopped: as soon as the guest ends, panics or is reset.
        :raise WaitTimeout: when the agent itself does not answer in time.
        :raise AgentError: when there is no agent, or it runs no commands.
        """
        argv = ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)
        if not argv:
            raise GuestError("an empty command cannot be run")
        deadline = Deadline(timeout)
        data = input.encode() if isinstance(input, str) else input
        result = self._carry_out(argv, self._words(argv, env, cwd), data, deadline)
        if check and result.returncode:
            raise CommandFailed(argv, result.returncode, result.stdout, result.stderr)
        return result

    def _words(self, argv: tuple[str, ...], env: Mapping[str, str] | None, cwd: str | None) -> tuple[str, ...]:
        """ARGV behind what sets its surroundings, where it has any of its own."""
        if env:
            # The agent could set variables too, but then these would be all.
            argv = ("env", *(f"{_variable(name)}={value}" for name, value in env.items()), *argv)
        if cwd is not None:
            argv = ("/bin/sh", "-c", 'cd -- "$0" && exec "$@"', cwd, *argv)
        return argv

    def _carry_out(
        self, argv: tuple[str, ...], words: tuple[str, ...], data: bytes | None, deadline: Deadline
    ) -> RunResult:
        if data is not None and len(data) > INPUT_BYTES:
            path = f"/tmp/.embedvm-{uuid.uuid4()}"  # noqa: S108 - a random name, in the guest
            write(self._agent, path, data, deadline)
            words, data = ("/bin/sh", "-c", 'exec <"$0" && rm -f "$0" && exec "$@"', path, *words), None
        try:
            pid = self._start(words, data, deadline)
        except AgentError as error:
            if _NOT_STARTED not in error.detail:
                raise
            return RunResult(argv, NOT_FOUND, b"", error.detail.encode())
        status = self._status(pid, f"the end of {shlex.join(argv)}", deadline)
        if status is None:
            raise self._killed(argv, pid, deadline)
        return _result(argv, status)

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

    def _killed(self, argv: tuple[str, ...], pid: int, deadline: Deadline) -> CommandTimeout:
        """Kill the process PID with its descendants, and say what it had written."""
        state, limit = self._watch.state(), Deadline(KILL_TIMEOUT_S)
        killer = self._start(("/bin/sh", "-c", _END, "sh", str(pid)), None, limit)
        self._status(killer, "the end of kill", limit)
        # Outputs come once the process has ended and nobody else holds them open.
        last = _result(argv, self._status(pid, f"the end of {shlex.join(argv)}", limit) or {}, whole=False)
        return CommandTimeout(
            argv, last.stdout, last.stderr, seconds=deadline.seconds, state=state, console=self._watch.shown()
        )


def _variable(name: str) -> str:
    if not name or "=" in name or "\0" in name:
        raise GuestError(f"{name!r} cannot be the name of an environment variable")
    return name


def _result(argv: tuple[str, ...], status: Mapping[str, Any], *, whole: bool = True) -> RunResult:
    stdout, stderr = (base64.b64decode(status.get(f"{name}-data", "")) for name in ("out", "err"))
    if whole and (status.get("out-truncated") or status.get("err-truncated")):
        raise OutputTruncated(argv, stdout, stderr)
    returncode = -int(status["signal"]) if "signal" in status else int(status.get("exitcode", 0))
    return RunResult(argv, returncode, stdout, stderr)
