from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainDestroyFlagsValues
from pytest_embedvm.driver import console
from pytest_embedvm.driver.console import BUFFER_BYTES, ConsoleLink
from pytest_embedvm.driver.descriptors import listen_unix
from pytest_embedvm.errors import InternalError, OperationFailed, SystemFailure
from tests.driver import tiny
from tests.driver.conftest import OpenDriver

PTY = "<serial type='pty'/>"


def counter() -> tuple[list[str], Callable[[], None]]:
    closed: list[str] = []
    return closed, lambda: closed.append("closed")


async def heard(link: ConsoleLink, what: bytes) -> None:
    """Read until the guest has said WHAT."""
    async with asyncio.timeout(10):
        while what not in (said := await link.read(100)):
            assert said, "the console is closed"


async def test_a_socket(tmp_path: Path) -> None:
    closed, on_close = counter()
    with listen_unix(tmp_path / "s") as listener:
        link = await ConsoleLink.open_unix(tmp_path / "s", on_close)
        peer, _ = listener.accept()
        with peer:
            assert await link.write(b"to the guest") == 12
            assert peer.recv(100) == b"to the guest"
            peer.send(b"from the guest")
            assert await link.read(4) == b"from"
            assert await link.read(100) == b" the guest"
        assert await link.read(100) == b""
    await link.close()
    await link.close()
    assert closed == ["closed"]
    with pytest.raises(SystemFailure, match="Broken pipe"):
        await link.write(b"x")


async def test_who_does_not_read_keeps_no_console_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "FLUSH_TIMEOUT_S", 0.01)
    _, on_close = counter()
    with listen_unix(tmp_path / "s") as listener:
        link = await ConsoleLink.open_unix(tmp_path / "s", on_close)
        peer, _ = listener.accept()
        with peer:
            writing = asyncio.create_task(link.write(bytes(8 * BUFFER_BYTES)))
            await asyncio.sleep(0)
            assert not writing.done()
            async with asyncio.timeout(10):
                await link.close()
                with pytest.raises(SystemFailure, match="cannot write to stream"):
                    await writing


async def test_a_terminal_passes_every_byte() -> None:
    closed, on_close = counter()
    master, slave = os.openpty()
    path = Path(os.ttyname(slave))
    os.close(slave)
    link = await ConsoleLink.open_terminal(path, on_close)
    everything = bytes(range(256))
    await link.write(everything)
    assert os.read(master, 1000) == everything
    os.write(master, everything)
    assert await link.read(1000) == everything
    os.close(master)
    assert await link.read(1000) == b""
    await link.close()
    assert closed == ["closed"]


async def test_close_wakes_a_reader(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "s"):
        link = await ConsoleLink.open_unix(tmp_path / "s", print)
        reading = asyncio.create_task(link.read(1))
        await asyncio.sleep(0)
        await link.close()
        assert await asyncio.wait_for(reading, 10) == b""


@pytest.mark.parametrize("alias", [None, "serial0"])
async def test_of_a_machine(embed: OpenDriver, tmp_path: Path, alias: str | None) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        link = await machine.open_console(alias)
        await link.write(b"x")
        await heard(link, b"x")
        with pytest.raises(OperationFailed, match="Active console session exists for this domain"):
            await machine.open_console(alias)
        other = await machine.open_console(alias, force=True)
        assert await link.read(100) == b""
        await other.write(b"y")
        await heard(other, b"y")
        with pytest.raises(InternalError, match=r"^internal error: cannot find character device nosuch$"):
            await machine.open_console("nosuch")
        await machine.destroy()
        assert await other.read(100) == b""


async def test_of_a_machine_on_a_terminal(embed: OpenDriver, tmp_path: Path) -> None:
    xml = tiny.xml(tmp_path).replace("type='unix'", "type='pty'").replace("<source mode='bind'", "<source")
    async with embed() as driver:
        machine = await driver.create_xml(xml)
        assert "<source path='/dev/pts/" in machine.xml()
        link = await machine.open_console(None)
        await link.write(b"x")
        await heard(link, b"x")
        await link.close()


async def test_what_the_guest_says_is_logged_whoever_listens(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / ("long" * 40)) as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        await tiny.tell(tmp_path, b"x")
        log = machine.evidence().console_logs["serial0"]
        await machine.destroy(DomainDestroyFlagsValues.GRACEFUL)  # QEMU writes to the socket first, then to the log
        assert machine.evidence().console_logs == {"serial0": log}
        assert log.is_relative_to(driver.root.path)
        assert log.read_bytes() == tiny.GREETING + b"x"


CHANNELS = """<channel type='unix'><target type='virtio' name='one'/></channel>
<channel type='unix'><target type='virtio' name='channel0'/></channel>
<channel type='pty'><target type='virtio' name='terminal'/></channel>"""


async def test_channels(embed: OpenDriver, tmp_path: Path) -> None:
    """The sentences are libvirt 9.0's."""
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, devices=CHANNELS))
        first = await machine.open_channel(None)
        for name in ("one", "channel0", None):  # of an alias and a name, what comes first counts
            with pytest.raises(OperationFailed, match="Active channel stream exists for this domain"):
                await machine.open_channel(name)
        other = await machine.open_channel("channel1")
        again = await machine.open_channel("one", force=True)
        assert await first.read(1) == b""
        for name in ("terminal", "channel2"):
            with pytest.raises(InternalError, match=rf"^internal error: channel {name} is not using a UNIX socket$"):
                await machine.open_channel(name)
        with pytest.raises(InternalError, match=r"^internal error: cannot find channel nosuch$"):
            await machine.open_channel("nosuch")
        await other.close()
        await (await machine.open_channel("channel1")).close()
        await machine.destroy()
        assert await again.read(1) == b""


async def test_no_channel(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        with pytest.raises(InternalError, match=r"^internal error: cannot find channel <null>$"):
            await machine.open_channel(None)
