"""The second monitor of a running VM, for a person: QMP without asyncio, which a command would have to load first."""

from __future__ import annotations

import array
import json
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from pytest_embedvm.cli.errors import CommandFailed

#: QEMU greets as soon as it is let at it; it serves one visitor at a time.
GREETING_TIMEOUT_S: Final = 5.0
REPLY_TIMEOUT_S: Final = 30.0
_READ_BYTES: Final = 65536

Message = dict[str, Any]


class Refused(CommandFailed):
    """QEMU's own words to a command that it did not take."""


class Gone(CommandFailed):
    """QEMU hung up."""


class Door:
    """A QMP session beside that of the VM's own driver, which does not notice it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._unread = b""
        #: Events that came since somebody took them, oldest first.
        self.events: list[Message] = []
        self.greeting: Message = {}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Connect to the debug socket at PATH and negotiate.

        :raise CommandFailed: when there is none, or another visitor is in.
        """
        from pytest_embedvm.driver.descriptors import connect_unix

        if not path.exists():
            raise CommandFailed(f"there is no debug door {path}: the VM was started with debug=False, or has ended")
        door = cls(connect_unix(path))
        try:
            door.greeting = door._next(GREETING_TIMEOUT_S, "QMP greeting (another visitor may be at the door)")
            door.execute("qmp_capabilities")
        except BaseException:
            door.close()
            raise
        return door

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None, descriptors: Sequence[int] = ()) -> Any:
        """QEMU's answer to COMMAND; DESCRIPTORS go with it.

        :raise Refused: when QEMU does not take it.
        :raise Gone: when QEMU ends instead.
        :raise CommandFailed: when no answer came within 30 s.
        """
        message: Message = {"execute": command}
        if arguments:
            message["arguments"] = dict(arguments)
        reply = self.exchange(message, descriptors)
        if "error" in reply:
            raise Refused(f"QEMU refused '{command}': {reply['error']['desc']}")
        return reply["return"]

    def human(self, line: str) -> str:
        """What QEMU's human monitor prints to LINE."""
        return str(self.execute("human-monitor-command", {"command-line": line}))

    def exchange(self, message: Message, descriptors: Sequence[int] = ()) -> Message:
        """QEMU's whole reply to MESSAGE, errors included."""
        data = json.dumps(message).encode()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._sock.settimeout(REPLY_TIMEOUT_S)
        try:
            sent = self._sock.sendmsg([data], rights)
            self._sock.sendall(data[sent:])
        except TimeoutError:
            raise CommandFailed(f"QEMU took nothing within {REPLY_TIMEOUT_S:g} s") from None
        except OSError as error:
            raise Gone(f"QEMU hung up: {error.strerror}") from None
        while True:
            reply = self._next(REPLY_TIMEOUT_S, f"reply to {message.get('execute', message)}")
            if "event" not in reply:
                return reply
            self.events.append(reply)

    def take_events(self) -> list[Message]:
        """The events that have come, those that nobody has read yet included; waits for none."""
        self._sock.setblocking(False)
        try:
            while data := self._sock.recv(_READ_BYTES):
                self._unread += data
        except OSError:  # nothing more at present, or QEMU is gone: the next command says so
            pass
        while b"\n" in self._unread:
            self.events.append(self._split())
        events, self.events = self.events, []
        return events

    def wait_closed(self, timeout: float) -> bool:
        """Whether QEMU hangs up within TIMEOUT seconds."""
        try:
            while True:
                self._next(timeout, "end")
        except Gone:
            return True
        except CommandFailed:
            return False

    def _next(self, timeout: float, awaited: str) -> Message:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._unread:
            self._sock.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._sock.recv(_READ_BYTES)
            except TimeoutError:
                raise CommandFailed(f"no {awaited} within {timeout:g} s") from None
            except OSError as error:
                raise Gone(f"QEMU hung up: {error.strerror}") from None
            if not data:
                raise Gone("QEMU hung up")
            self._unread += data
        return self._split()

    def _split(self) -> Message:
        line, _, self._unread = self._unread.partition(b"\n")
        message: Message = json.loads(line)
        return message
