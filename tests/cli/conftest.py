"""A machine that echoes what is typed, and a command on a terminal of its own."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from tests.driver.tiny import firmware

DEADLINE_S = 30
PROGRAM = (sys.executable, "-m", "pytest_embedvm")
PTY = "<serial type='pty'><target port='0'/></serial>"

Boot = Callable[..., libvirt.virDomain]


@pytest.fixture(scope="session", autouse=True)
def _probe_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One probe for the whole run, out of the user's cache; and an index of roots that is the tests' own."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDVM_CACHE_DIR", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "probe"))
        yield


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def connection(root: Path) -> Iterator[libvirt.virConnect]:
    connection = libvirt.open(make_uri(root))
    yield connection
    connection.close()


@pytest.fixture
def boot(connection: libvirt.virConnect, tmp_path: Path) -> Boot:
    """Starts a machine whose firmware says K on its serial port, and then echoes what it reads."""

    def boot(
        name: str = "a", devices: str = PTY, *, on: libvirt.virConnect = connection, flags: int = 0
    ) -> libvirt.virDomain:
        rom = tmp_path / "tiny.fd"
        rom.write_bytes(firmware())
        xml = f"""<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory>
          <os><type arch='x86_64' machine='q35'>hvm</type><loader type='rom'>{rom}</loader></os>
          <devices><memballoon model='none'/>{devices}</devices></domain>"""
        return connection.createXML(xml, flags)

    return boot


def pid_of(root: Path, name: str = "a") -> int:
    return int((root / f"run/qemu/{name}.pid").read_text())


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: object) -> None:
        self.descriptor, self._other = os.openpty()
        self.before = self.attributes
        self.attributes_afterwards: list[object] = []
        self.said = b""
        self.process = subprocess.Popen(
            [*PROGRAM, *map(str, words)],
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )

    @property
    def attributes(self) -> list[object]:
        return termios.tcgetattr(self._other)

    def until(self, pattern: str) -> str:
        """All that it has said, once PATTERN is in it."""
        while not re.search(pattern.encode(), self.said):
            assert select.select([self.descriptor], [], [], DEADLINE_S)[0], f"{pattern!r} did not come: {self.said!r}"
            self.said += os.read(self.descriptor, 65536)
        return self.said.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def end(self) -> int:
        """Wait for its end, reading on as a terminal does; the exit status."""
        pidfd = os.pidfd_open(self.process.pid)
        try:
            while pidfd not in (ready := select.select([self.descriptor, pidfd], [], [], DEADLINE_S)[0]):
                assert ready, f"it goes on: {self.said[-2000:]!r}"
                self.said += os.read(self.descriptor, 65536)
            while select.select([self.descriptor], [], [], 0)[0]:
                self.said += os.read(self.descriptor, 65536)
            return self.process.wait()
        finally:
            os.close(pidfd)
            self.close()

    def close(self) -> None:
        """End it, if it has not, and give the terminal back."""
        if self._other >= 0:
            self.process.kill()
            self.process.wait()
            self.attributes_afterwards = self.attributes
            os.close(self.descriptor)
            os.close(self._other)
            self._other = -1


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    """Runs a command on a terminal; one that a failed test leaves is ended."""
    made: list[Terminal] = []

    def run(*words: object) -> Terminal:
        made.append(Terminal(*words))
        return made[-1]

    yield run
    for one in made:
        one.close()
