"""The guest's server for commands, run on this host: what it is told happens here."""

from __future__ import annotations

import platform
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.native import EXEC_SERVER
from pytest_embedvm.guest.image.native.compiler import compiled


def host_server(home: Path) -> Path:
    """The server as a program of this host, in the directory HOME."""
    if platform.machine() != "x86_64":
        pytest.skip("the server is made for x86-64")
    program = home / "exec-server"
    program.write_bytes(compiled(EXEC_SERVER))
    program.chmod(0o755)
    return program


@contextmanager
def served(program: Path) -> Iterator[Callable[[], socket.socket]]:
    """Makes connections to PROGRAM, a new process each; all end with the body."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                process = stack.enter_context(
                    subprocess.Popen(
                        [program],
                        stdin=theirs,
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.DEVNULL,
                        cwd=program.parent,
                    )
                )
            stack.callback(process.kill)
            return ours

        yield connect
