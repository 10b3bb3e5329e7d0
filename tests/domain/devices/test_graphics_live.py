"""A VNC server on real QEMU, reached by its socket."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from pytest_embedvm.domain import argv
from pytest_embedvm.driver.descriptors import connect_unix
from tests.domain.devices.asking import completed
from tests.domain.test_golden_live import HostBelow, running
from tests.fakes.host import EMULATOR

pytestmark = pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")

VNC_ON_SOCKET = "<graphics type='vnc'><listen type='socket'/></graphics>"


def shake_hands(sock: socket.socket) -> bytes:
    """The kinds of security that the server offers (RFB 3.8: a count, then one byte each; 1 is none)."""
    sock.settimeout(30)
    assert sock.recv(12, socket.MSG_WAITALL) == b"RFB 003.008\n"
    sock.sendall(b"RFB 003.008\n")
    return sock.recv(2, socket.MSG_WAITALL)


@pytest.mark.parametrize("length", [20, 200])
def test_a_root_of_any_length_has_a_vnc_server(tmp_path: Path, length: int) -> None:
    root = tmp_path / ("r, ü" * length)[:length]
    root.mkdir()
    host = HostBelow(root)
    path = Path(host.path("vnc", "t", "vnc"))

    async def run() -> None:
        async with running(argv.launch(completed(VNC_ON_SOCKET, host=host), host), tmp_path / "qemu.log"):
            with connect_unix(path) as sock:
                assert shake_hands(sock) == b"\x01\x01"

    asyncio.run(run())
    assert not path.exists()


def test_a_port_is_found_where_the_first_is_taken(tmp_path: Path) -> None:
    host = HostBelow(tmp_path)
    launch = argv.launch(completed("<graphics type='vnc'/>", host=host), host)

    async def run() -> set[str]:
        async with (
            running(launch, tmp_path / "one.log") as (one, _),
            running(launch, tmp_path / "two.log") as (other, _),
        ):
            return {(await monitor.execute("query-vnc"))["service"] for monitor in (one, other)}

    assert len(asyncio.run(run())) == 2
