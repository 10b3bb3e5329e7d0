"""QMP over a socket that is already connected, with a memory of the last messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

from qemu.qmp import EventListener, ExecInterruptedError, ExecuteError, Message, QMPClient, QMPError, Runstate

from pytest_embedvm.errors import InternalError, OperationFailed, OperationTimeout

CONNECT_TIMEOUT_S: Final = 30.0
COMMAND_TIMEOUT_S: Final = 30.0
#: How many messages the trace keeps, and how much of each.
TRACE_MESSAGES: Final = 200
TRACE_CHARACTERS: Final = 2000

Event = Mapping[str, Any]
OnEvent = Callable[[Event], None]


class CommandError(InternalError):
    """QEMU refused a command; `error_class` and `description` are its own words."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        super().__init__(f"unable to execute QEMU command '{command}': {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


class MonitorClosed(OperationFailed):
    """The other end of the monitor is gone: QEMU ended, or was killed."""


class _Tracing(QMPClient):
    """A client that remembers what went over the wire instead of formatting it for a debug log."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        #: Direction and message; made into text only when somebody asks.
        self.trace: deque[tuple[str, Message]] = deque(maxlen=TRACE_MESSAGES)

    def _cb_outbound(self, msg: Message) -> Message:
        self.trace.append((">", msg))
        return msg

    def _cb_inbound(self, msg: Message) -> Message:
        self.trace.append(("<", msg))
        return msg


def _spell(direction: str, message: Mapping[str, Any]) -> str:
    text = f"{direction} {json.dumps(_without_secrets(message))}"
    return text if len(text) <= TRACE_CHARACTERS else f"{text[:TRACE_CHARACTERS]}… ({len(text)} characters)"


#: Arguments that no trace and no error shows, by command.
_SECRETS: Final[Mapping[str, tuple[str, ...]]] = {
    "set_password": ("password",),
    "change-vnc-password": ("password",),
    "object-add": ("data",),
}
#: What the human monitor's lines begin with that tell a secret.
_SECRET_LINES: Final = ("set_password ", "change vnc ", "object_add secret")


def _without_secrets(message: Mapping[str, Any]) -> dict[str, Any]:
    plain = dict(message)
    command, arguments = plain.get("execute", plain.get("exec-oob")), plain.get("arguments")
    if not isinstance(command, str) or not isinstance(arguments, Mapping):
        return plain
    hidden = _SECRETS.get(command, ())
    if str(arguments.get("command-line", "")).lstrip().startswith(_SECRET_LINES):
        hidden = ("command-line",)
    if hidden:
        plain["arguments"] = {name: "…" if name in hidden else value for name, value in arguments.items()}
    return plain


class _Hook(EventListener):
    """Hands each event over before any later reply is delivered, so that nobody sees them out of order."""

    def __init__(self, on_event: OnEvent) -> None:
        super().__init__()
        self._on_event = on_event

    async def put(self, event: Message) -> None:
        self._on_event(event)


class Monitor:
    """One QMP session."""

    def __init__(self, client: _Tracing) -> None:
        self._client = client

    @classmethod
    async def connect(cls, sock: socket.socket, name: str, on_event: OnEvent | None = None) -> Self:
        """Greet and negotiate on SOCK, which becomes the monitor's own.

        :param on_event: called on the loop thread for each event, in the order of the wire.
        :raise MonitorClosed: when the other end closes first.
        :raise OperationTimeout: when the greeting does not come within 30 s.
        """
        client = _Tracing(name)
        client.logger.disabled = True  # what it would say is in the errors below and in the trace
        client.events.event_filter = lambda _: False  # the default listener cannot be removed, and would grow
        if on_event:
            client.register_listener(_Hook(on_event))
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await client.connect(sock)
        except TimeoutError:
            sock.close()
            raise OperationTimeout(f"no QMP greeting from {name} within {CONNECT_TIMEOUT_S:g} s") from None
        except (QMPError, OSError, EOFError) as error:
            sock.close()
            raise MonitorClosed(f"{name} closed its monitor before the greeting: {error}") from error
        return cls(client)

    @property
    def greeting(self) -> Mapping[str, Any]:
        """QEMU's greeting: version, package and capabilities."""
        greeting = self._client.greeting
        return greeting.QMP.version if greeting else {}

    @property
    def trace(self) -> list[str]:
        """The last 200 messages in both directions, oldest first."""
        return [_spell(*entry) for entry in self._client.trace]

    @property
    def connected(self) -> bool:
        return self._client.runstate is Runstate.RUNNING

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float | None = None
    ) -> Any:
        """Execute COMMAND and return its value.

        :param timeout: seconds to wait for the reply; 30 unless told.
        :raise CommandError: when QEMU refuses it.
        :raise MonitorClosed: when QEMU is gone.
        :raise OperationTimeout: when no reply came.
        """
        timeout = COMMAND_TIMEOUT_S if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                return await self._client.execute(command, arguments)
        except ExecuteError as error:
            raise CommandError(command, error.error_class, str(error)) from None
        except TimeoutError:
            last = _spell(*self._client.trace[-1]) if self._client.trace else "nothing"
            raise OperationTimeout(
                f"no reply to QMP command '{command}' within {timeout:g} s; last seen: {last}"
            ) from None
        except (ExecInterruptedError, QMPError, OSError, EOFError) as error:
            raise MonitorClosed(f"QEMU closed its monitor during '{command}': {error}") from error

    async def execute_raw(self, message: Mapping[str, Any], *, timeout: float = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        """Send MESSAGE as it is, with an id of ours, and return QEMU's whole reply, errors included.

        :raise MonitorClosed: when QEMU is gone.
        :raise OperationTimeout: when no reply came.
        """
        try:
            async with asyncio.timeout(timeout):
                reply = await self._client._raw(message)
        except TimeoutError:
            raise OperationTimeout(
                f"no reply to {json.dumps(_without_secrets(message))} within {timeout:g} s"
            ) from None
        except (QMPError, OSError, EOFError) as error:
            raise MonitorClosed(f"QEMU closed its monitor: {error}") from error
        return dict(reply)

    async def wait_closed(self) -> None:
        """Wait until the other end hangs up; each event that it sent before has been handed over by then."""
        while self.connected:
            await self._client.runstate_changed()

    def send_descriptor(self, descriptor: int) -> None:
        """Attach DESCRIPTOR to the next command (`getfd`, `add-fd`)."""
        self._client.send_fd_scm(descriptor)

    async def close(self) -> None:
        """End the session; whether QEMU hung up first makes no difference."""
        with contextlib.suppress(QMPError, OSError, EOFError):  # what ended the reader, raised again
            await self._client.disconnect()
