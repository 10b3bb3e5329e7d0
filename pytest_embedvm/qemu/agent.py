"""The QEMU guest agent, over a stream that QEMU connects to its channel."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Mapping
from typing import Any, Final, Self

from pytest_embedvm.errors import AgentUnresponsive, InternalError

#: How long a command may take when its caller does not say.
COMMAND_TIMEOUT_S: Final = 5.0  # libvirt: VIR_DOMAIN_QEMU_AGENT_COMMAND_DEFAULT
#: The longest reply: a guest-file-read of 48 MB in base64 fits.
REPLY_BYTES: Final = 64 * 1024 * 1024
#: Resets the agent's parser; it answers guest-sync-delimited with the same byte first.
DELIMITER: Final = b"\xff"


class AgentCommandError(InternalError):
    """The agent refused a command; `error_class` and `description` are its own words."""

    def __init__(self, command: str, error_class: str, description: str) -> None:
        # libvirt: qemuAgentCheckError
        super().__init__(f"unable to execute QEMU agent command '{command}': {description}")
        self.command = command
        self.error_class = error_class
        self.description = description


def check_reply(command: str, reply: Mapping[str, Any]) -> Any:
    """The value in REPLY to COMMAND.

    :raise AgentCommandError: when it is an error.
    """
    if "error" in reply:
        error = reply["error"]
        raise AgentCommandError(command, str(error.get("class", "")), str(error.get("desc", error)))
    return reply.get("return")


class Agent:
    """One conversation with the agent of one guest: a command at a time, each with its reply.

    Before the first command, and after one whose reply did not come in time, the stream is
    brought back in step: whatever the guest still sends of the past is thrown away.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()
        self._in_step = False
        self._closed = asyncio.Event()
        self._ids = itertools.count(1)

    @classmethod
    async def connect(cls, sock: socket.socket) -> Self:
        """Talk over SOCK, which is connected and becomes the agent's own."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sock, limit=REPLY_BYTES)
        return cls(reader, writer)

    async def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, *, timeout: float | None = COMMAND_TIMEOUT_S
    ) -> Any:
        """Execute COMMAND in the guest and return its value.

        :param timeout: seconds for the whole of it; None waits as long as the guest lives.
        :raise AgentCommandError: when the agent refuses it.
        :raise AgentUnresponsive: when the reply does not come in time, or the channel closes.
        """
        message: dict[str, object] = {"execute": command}
        if arguments is not None:
            message["arguments"] = arguments
        return check_reply(command, await self.send(message, timeout=timeout))

    async def send(self, message: Mapping[str, object], *, timeout: float | None = COMMAND_TIMEOUT_S) -> dict[str, Any]:
        """Send MESSAGE as it is and return the agent's whole reply, errors included.

        :raise AgentUnresponsive: when the reply does not come in time, or the channel closes.
        """
        stage = "its turn after an earlier command"
        try:
            async with asyncio.timeout(timeout), self._turn:
                if not self._in_step:
                    stage = "the reply to guest-sync-delimited"
                    await self._synchronize()
                stage = f"the reply to {message.get('execute', message)}"
                self._in_step = False
                await self._write(json.dumps(message).encode() + b"\n")
                answer = await self._read()
                self._in_step = True
        except TimeoutError:
            raise AgentUnresponsive(f"{stage} did not come within {timeout:g} s") from None
        except (OSError, EOFError) as error:
            raise AgentUnresponsive(f"its channel closed while {stage} was awaited") from error
        return answer

    def forget(self) -> None:
        """The guest closed its end: a command that waits fails, and another agent may answer the next one."""
        # libvirt: qemuAgentNotifyCloseLocked
        self._in_step = False
        self._closed.set()

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def _synchronize(self) -> None:
        number = next(self._ids)
        request = {"execute": "guest-sync-delimited", "arguments": {"id": number}}
        await self._write(DELIMITER + json.dumps(request).encode() + b"\n")
        while True:
            await self._until(DELIMITER)
            line = await self._line()
            with contextlib.suppress(ValueError):  # torn by the guest's restart: the next delimiter will do
                if json.loads(line) == {"return": number}:
                    return

    async def _read(self) -> dict[str, Any]:
        line = await self._line()
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise InternalError(f"the guest agent sent what is no JSON object: {line[:200]!r}")
        return answer

    async def _line(self) -> bytes:
        try:
            return await self._until(b"\n")
        except asyncio.LimitOverrunError:
            raise InternalError(f"the guest agent sent a reply of more than {REPLY_BYTES} bytes") from None

    async def _until(self, separator: bytes) -> bytes:
        """What comes up to SEPARATOR.

        :raise EOFError: when the guest closes its end meanwhile.
        """
        self._closed.clear()
        reading = asyncio.ensure_future(self._reader.readuntil(separator))
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                return reading.result()
            raise EOFError
        finally:
            for future in (reading, closing):
                future.cancel()
            await asyncio.gather(reading, closing, return_exceptions=True)

    async def close(self) -> None:
        """Hang up; whether the other end did so first, or reads what was sent last, makes no difference."""
        self._writer.transport.abort()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
