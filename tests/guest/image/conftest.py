"""The built image on real QEMU, without the project's driver: a process, socketpairs, and nothing else."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.image.manifest import GuestImage

DEADLINE_S = 90.0
AGENT = "org.qemu.guest_agent.0"


class Line:
    """One end of a socketpair whose other end QEMU has; all that comes is kept."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.seen = b""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def _drain(self) -> None:
        while True:
            try:
                data = self.ours.recv(65536)
            except OSError:
                data = b""
            with self._changed:
                self.seen += data
                self._changed.notify_all()
            if not data:
                return

    def send(self, text: str) -> None:
        self.ours.sendall(text.encode())

    def await_match(self, pattern: str, start: int = 0) -> re.Match[bytes]:
        """The first match of PATTERN in what came after the first START bytes."""
        compiled = re.compile(pattern.encode(), re.DOTALL)
        with self._changed:
            found = self._changed.wait_for(lambda: compiled.search(self.seen, start), DEADLINE_S)
        assert found, f"no {pattern!r} within {DEADLINE_S} s; last: {self.seen[-1500:].decode(errors='replace')}"
        return found

    def close(self) -> None:
        self.ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self.ours.close()


class Machine:
    """A running QEMU with serial console, guest agent and QMP."""

    def __init__(self, image: GuestImage, *options: str) -> None:
        self.console, self.agent_line, self.qmp = Line(), Line(), Line()
        lines = {"serial": self.console, "agent": self.agent_line, "qmp": self.qmp}
        sockets = [("-chardev", f"socket,id={name},fd={line.theirs.fileno()}") for name, line in lines.items()]
        self.process = subprocess.Popen(
            [
                *("qemu-system-x86_64", "-M", "q35", "-accel", "tcg", "-m", "256"),
                *("-nodefaults", "-display", "none", "-no-user-config"),
                *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", image.cmdline),
                *(word for pair in sockets for word in pair),
                *("-serial", "chardev:serial", "-mon", "chardev=qmp,mode=control", "-device", "virtio-serial"),
                *("-device", f"virtserialport,chardev=agent,name={AGENT}"),
                *options,
            ],
            pass_fds=[line.theirs.fileno() for line in lines.values()],
        )
        for line in lines.values():
            line.theirs.close()
        self.qmp.send('{"execute": "qmp_capabilities"}')

    def agent(self, command: str, **arguments: Any) -> Any:
        """The agent's answer to COMMAND."""
        start = len(self.agent_line.seen)
        self.agent_line.send(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        answer = json.loads(self.agent_line.await_match(r"\{[^\n]*\}\n", start)[0])
        assert "return" in answer, answer
        return answer["return"]

    def run(self, script: str) -> str:
        """What SCRIPT writes, run by the guest's shell through the agent; its exit code must be 0."""
        pid = self.agent("guest-exec", path="/bin/sh", arg=["-c", script], **{"capture-output": True})["pid"]
        deadline = time.monotonic() + DEADLINE_S
        while not (status := self.agent("guest-exec-status", pid=pid))["exited"]:
            assert time.monotonic() < deadline, f"{script!r} did not end within {DEADLINE_S} s"
            time.sleep(0.01)
        out, err = (base64.b64decode(status.get(key, "")).decode() for key in ("out-data", "err-data"))
        assert status["exitcode"] == 0, f"{script!r}: {status['exitcode']} {err}"
        return out

    def execute(self, command: str, **arguments: Any) -> None:
        """Run the QMP command COMMAND, which must succeed."""
        start = len(self.qmp.seen)
        self.qmp.send(json.dumps({"execute": command, "arguments": arguments, "id": "mine"}))
        answer = self.qmp.await_match(r"\{[^\n]*\"id\": \"mine\"[^\n]*\n", start)[0]
        assert b'"return"' in answer, answer

    def wait(self) -> int:
        """The exit status of QEMU, which must end; what the guest said last is in the error."""
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            said = bytes(self.console.seen[-2000:]).decode(errors="replace")
            pytest.fail(f"QEMU did not end within {DEADLINE_S} s; the console's last words:\n{said}")

    def type(self, text: str, pattern: str) -> None:
        """Type TEXT at the console's shell and await PATTERN after it."""
        start = len(self.console.seen)
        self.console.send(text)
        self.console.await_match(pattern, start)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for line in (self.console, self.agent_line, self.qmp):
            line.close()


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> GuestImage:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")
    return build_guest(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def booted(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A guest with a disk, a NIC and a randomness source, which tests look at and do not change."""
    disk = tmp_path_factory.mktemp("disk") / "disk"
    disk.write_bytes(b"on the disk".ljust(1 << 20, b"\0"))
    machine = Machine(
        image,
        *("-drive", f"if=none,id=d0,format=raw,file={disk}", "-device", "virtio-blk,drive=d0"),
        *("-netdev", "user,id=n0", "-device", "virtio-net,netdev=n0", "-device", "virtio-rng"),
        *("-chardev", "null,id=other", "-device", "virtserialport,chardev=other,name=org.example.other"),
    )
    yield from _ready(machine)


def _ready(machine: Machine) -> Iterator[Machine]:
    try:
        machine.agent("guest-ping")
        machine.console.await_match("embedvm: ready")
        yield machine
    finally:
        machine.close()


@pytest.fixture(scope="session")
def plain(image: GuestImage) -> Iterator[Machine]:
    """A guest with nothing but its agent and console, and a slot: tests type at it and plug."""
    yield from _ready(Machine(image, "-device", "pcie-root-port,id=root-port"))


@pytest.fixture
def fresh(image: GuestImage) -> Iterator[Machine]:
    """A guest for one test, which may end it."""
    yield from _ready(Machine(image))
