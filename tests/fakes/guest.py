"""A domain without QEMU: its console is a queue, its events are told by the test, its agent runs on the host."""

from __future__ import annotations

import json
import os
import queue
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.error import report
from pytest_embedvm.errors import AgentUnresponsive, InternalError

XML = "<domain><devices><serial type='pty'/></devices></domain>"
Agent = Callable[[str], str]


def absent(_command: str) -> str:
    """The answer of an agent that is not there."""
    raise report(AgentUnresponsive("QEMU guest agent is not connected"))


SERVED = (
    "<domain><devices><serial type='pty'/><channel type='unix'>"
    "<target type='virtio' name='org.embedvm.exec.0' state='connected'/></channel></devices></domain>"
)


class FakeStream:
    """A console: what the test feeds is received. Or a channel, to the socket `line`."""

    def __init__(self) -> None:
        self.fed: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.sent = b""
        self.line: socket.socket | None = None

    def recv(self, size: int) -> bytes:
        return self.line.recv(size) if self.line else self.fed.get()

    def send(self, data: bytes) -> int:
        if self.line:
            return self.line.send(data)
        taken = data[:3]  # a stream may take less than all
        self.sent += taken
        return len(taken)

    def abort(self) -> int:
        if self.line:
            with suppress(OSError):  # the other end was first
                self.line.shutdown(socket.SHUT_RDWR)
        self.fed.put(b"")
        return 0


class FakeConnection:
    def __init__(self) -> None:
        self.callbacks: dict[int, tuple[int, Any]] = {}
        self._next = 0

    def newStream(self, _flags: int) -> FakeStream:
        return FakeStream()

    def domainEventRegisterAny(self, _domain: object, event_id: int, callback: Any, _opaque: object) -> int:
        self._next += 1
        self.callbacks[self._next] = (event_id, callback)
        return self._next

    def domainEventDeregisterAny(self, number: int) -> None:
        del self.callbacks[number]


class FakeDomain:
    """Active while `on`; orders are kept in `orders`, and then `obey` is called."""

    def __init__(self, agent: Agent = absent, xml: str = XML) -> None:
        self.connection = FakeConnection()
        self.stream = FakeStream()
        self.agent = agent
        self.xml = xml
        self.on = True
        self.orders: list[str] = []
        self.obey: Callable[[str], object] = str
        self.commands: list[str] = []
        #: The host's end of a channel, by what openChannel() is called.
        self.line: Callable[[], socket.socket] | None = None

    def connect(self) -> FakeConnection:
        return self.connection

    def name(self) -> str:
        return "fake"

    def XMLDesc(self) -> str:
        return self.xml

    def openConsole(self, _device: str | None, stream: FakeStream, _flags: int) -> int:
        self.stream = stream
        return 0

    def openChannel(self, _name: str | None, stream: FakeStream, _flags: int) -> int:
        if self.line is None:
            raise report(InternalError("cannot find channel x"))
        stream.line = self.line()
        return 0

    def isActive(self) -> int:
        return int(self.on)

    def state(self) -> list[int]:
        return [libvirt.VIR_DOMAIN_RUNNING if self.on else libvirt.VIR_DOMAIN_SHUTOFF, 0]

    def shutdown(self) -> int:
        return self._order("shutdown")

    def reboot(self) -> int:
        return self._order("reboot")

    def _order(self, order: str) -> int:
        self.orders.append(order)
        self.obey(order)
        return 0

    def _agent_command(self, command: str, _timeout: int, _flags: int) -> str:
        self.commands.append(json.loads(command)["execute"])
        return self.agent(command)

    def emit(self, event_id: int, *arguments: int) -> None:
        for wanted, callback in tuple(self.connection.callbacks.values()):
            if wanted == event_id:
                callback(self.connection, self, *arguments, None)

    def stop(self, detail: int) -> None:
        self.on = False
        self.emit(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_STOPPED, detail)

    def reset(self) -> None:
        self.emit(libvirt.VIR_DOMAIN_EVENT_ID_REBOOT)


@contextmanager
def host_agent(home: Path) -> Iterator[Agent]:
    """A real guest agent that runs on this host: what it is told happens here."""
    program = shutil.which("qemu-ga")
    if program is None:
        pytest.skip("there is no qemu-ga")
    directory = os.open(home, os.O_PATH)
    address = f"/proc/self/fd/{directory}/agent"  # however long the path of HOME
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        listener.bind(address)
        listener.listen()
        script = 'exec 3<&"$1" && export LISTEN_PID=$$ LISTEN_FDS=1 && exec "$0" --statedir "$2"'
        number = listener.fileno()
        with subprocess.Popen(
            ["/bin/bash", "-c", script, program, str(number), home],
            pass_fds=[number],
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                ours.connect(address)
                with ours.makefile("rwb") as line:
                    yield lambda command: _converse(line, command)
            finally:
                process.kill()
    os.close(directory)


def _converse(line: Any, command: str) -> str:
    line.write(command.encode() + b"\n")
    line.flush()
    text: str = line.readline().decode()
    answer = json.loads(text)
    if "error" in answer:
        name = json.loads(command)["execute"]
        # libvirt: qemuAgentCheckError
        raise report(InternalError(f"unable to execute QEMU agent command '{name}': {answer['error']['desc']}"))
    return text
