"""`embedvm console`: what is seen, what is typed, what the test beside it reads, and the terminal afterwards."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.cli.main import main
from tests.cli.conftest import Boot, Terminal, pid_of

Run = Callable[..., Terminal]

LEAVE = "\x1d"


def read(stream: libvirt.virStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        assert isinstance(more, bytes)
        assert more, f"the console ended after {data!r}"
        data += more
    return data


def test_what_is_typed_reaches_the_guest_and_the_test_still_reads_all_it_says(
    boot: Boot, root: Path, terminal: Run, connection: libvirt.virConnect
) -> None:
    stream = connection.newStream(0)
    domain = boot(flags=libvirt.VIR_DOMAIN_START_PAUSED)
    domain.openConsole(None, stream, 0)
    domain.resume()
    assert read(stream, 1) == b"K"
    seen = terminal("console", root, "a")
    seen.until("a: serial0; Ctrl-. leaves[^K]*K")
    seen.type("xyz" * 2000)
    seen.until("(xyz){2000}")
    assert read(stream, 6000) == b"xyz" * 2000
    seen.type(LEAVE)
    assert seen.end() == 0
    assert seen.attributes_afterwards == seen.before
    stream.abort()


def test_a_guest_that_nobody_else_reads_does_not_stall(boot: Boot, root: Path, terminal: Run) -> None:
    """More than a terminal's buffer holds."""
    boot()
    seen = terminal("console", root, "a")
    seen.until("leaves")
    seen.type("z" * 3000)
    seen.until("z{3000}")
    seen.type("y" * 3000)
    seen.until("y{3000}")
    seen.type("x" * 3000)
    seen.until("x{3000}")
    seen.type(LEAVE)
    assert seen.end() == 0


def test_read_only_it_types_nothing(boot: Boot, root: Path, terminal: Run) -> None:
    boot()
    seen = terminal("console", "--read-only", root, "a", "serial0")
    seen.until("leaves[^K]*K")
    seen.type("q" + LEAVE)
    assert seen.end() == 0
    assert seen.said.endswith(b"K\r\n")


def test_it_ends_with_its_machine(boot: Boot, root: Path, terminal: Run) -> None:
    domain = boot()
    seen = terminal("console", root)
    seen.until("K")
    domain.destroy()
    assert seen.end() == 0
    assert "domain 'a' has ended" in seen.said.decode()
    assert seen.attributes_afterwards == seen.before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_signal_leaves_the_terminal_as_it_was(boot: Boot, root: Path, terminal: Run, number: int) -> None:
    boot()
    seen = terminal("console", root)
    seen.until("K")
    assert seen.attributes != seen.before
    seen.process.send_signal(number)
    assert seen.end() == 128 + number
    assert seen.attributes_afterwards == seen.before


def test_a_console_that_is_not_there_is_named_beside_those_that_are(
    boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boot()
    assert main(["console", str(root), "a", "serial7"]) == 1
    assert capsys.readouterr().err == "embedvm console: domain 'a' has no console serial7, but serial0\n"


def test_a_socket_can_only_be_looked_at(
    boot: Boot, root: Path, tmp_path: Path, terminal: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    boot(devices=f"<serial type='unix'><source mode='bind' path='{tmp_path}/com1'/></serial>")
    assert main(["console", str(root)]) == 1
    assert "serial0 is no pty but a unix: --read-only shows what it says" in capsys.readouterr().err
    seen = terminal("console", "--read-only", root)
    seen.until("K")
    seen.type("\x03")
    assert seen.end() == 0


def test_a_machine_without_a_console_says_so(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot(devices="")
    assert main(["console", str(root)]) == 1
    assert "domain 'a' has no console with a log" in capsys.readouterr().err
    assert pid_of(root)
