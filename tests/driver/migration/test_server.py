"""Guests that go from one process to another, and what a root answers to those who are none."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.driver import _open as opened
from pytest_embedvm.driver.migration import client as migration_client
from pytest_embedvm.driver.migration import server as migration_server
from pytest_embedvm.driver.migration import wire as migration_wire
from pytest_embedvm.driver.migration.client import Remote, to_uri
from pytest_embedvm.driver.migration.outgoing import Plan
from pytest_embedvm.driver.migration.peer import Offer
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import (
    EmbedError,
    InternalError,
    InvalidArgument,
    InvalidCall,
    NoConnect,
    OperationFailed,
    OperationInvalid,
    SystemFailure,
    XMLError,
)
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, state
from tests.driver.migration.test_outgoing import LARGE, LIVE

PROJECT = Path(__file__).parents[3]

#: Opens a root, tells what happens there, and answers lines: what its domains are.
OTHER = """
import sys
from pytest_embedvm import libvirt
connection = libvirt.open(sys.argv[1])
say = lambda *words: print(*words, flush=True)
connection.domainEventRegister(lambda c, d, event, detail, o: say("event", d.name(), event, detail), None)
say("open")
for line in sys.stdin:
    say("domains", *(f"{d.name()} {d.UUIDString()} {d.state()[0]} {d.state()[1]}" for d in connection.listAllDomains()))
"""


class Other:
    """Another process, which has a root open."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read(self) -> str:
        return (self.process.stdout.readline() if self.process.stdout else "").strip()

    def domains(self) -> tuple[list[str], str]:
        """What happened there since the last look, and what is there."""
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        events: list[str] = []
        while not (line := self.read()).startswith("domains"):
            assert line, "the other process has ended"
            events.append(line)
        return events, line


@contextlib.contextmanager
def other(uri: str) -> Iterator[Other]:
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
    ) as process:
        there = Other(process)
        assert there.read() == "open"
        try:
            yield there
        finally:
            process.kill()


async def test_to_another_process(embed: OpenDriver, tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "b")
    async with embed(tmp_path / "a") as driver:
        with other(uri) as there:
            events = Events(driver)
            machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
            await events.so_far(machine)
            arrival = await to_uri(machine, uri, Plan(live=True, name="b"))
            assert (arrival.name, arrival.uuid) == ("b", str(machine.uuid))
            assert await events.so_far(machine) == ["SUSPENDED/MIGRATED", "STOPPED/MIGRATED"]
            assert driver.machines() == []
            told, found = there.domains()
            assert told == ["event b 2 1", "event b 4 1"]  # STARTED/MIGRATED, RESUMED/MIGRATED
            assert found == f"domains b {machine.uuid} 1 2"  # RUNNING/MIGRATED
            await tiny.tell(tmp_path / "guest", b"x")


async def test_the_other_process_dies(embed: OpenDriver, tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "b")
    async with embed(tmp_path / "a") as driver:
        with other(uri) as there:
            text = tiny.xml(tmp_path / "guest").replace("<memory unit='MiB'>32</memory>", LARGE)
            machine = await driver.create_xml(text)
            task = asyncio.ensure_future(to_uri(machine, uri, Plan(live=True, bandwidth=1)))
            await asyncio.get_running_loop().run_in_executor(None, there.read)  # it is awaited there
            there.process.send_signal(signal.SIGKILL)
            # The last is what it says if the process dies before the source has connected.
            sentences = r"Lost connection to destination host|job 'migration out' failed|Connection refused"
            with pytest.raises((OperationFailed, SystemFailure), match=sentences):
                await task
        assert state(machine)[0] == "RUNNING"
        await tiny.tell(tmp_path / "guest", b"x")


async def test_what_the_other_process_refuses(embed: OpenDriver, tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "b")
    async with embed(tmp_path / "a") as driver:
        with other(uri) as there:
            disk = tmp_path / "d.img"
            disk.write_bytes(bytes(1 << 20))
            device = f"<disk type='file'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
            machine = await driver.create_xml(tiny.xml(tmp_path / "guest", devices=device))
            disk.unlink()
            with pytest.raises(SystemFailure, match="Cannot access storage file"):
                await to_uri(machine, uri, LIVE)
            assert there.domains() == ([], "domains")
        assert state(machine)[0] == "RUNNING"


async def test_to_a_root_that_nobody_has_open(embed: OpenDriver, tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "b")
    async with embed(tmp_path / "a") as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        await to_uri(machine, uri, LIVE)
        async with embed(tmp_path / "b") as there:
            moved = there.by_name("a")
            assert state(moved) == ("RUNNING", "MIGRATED")
            await tiny.tell(tmp_path / "guest", b"x")
            await moved.destroy()
        await _until_free(tmp_path / "b")


async def _until_free(path: Path) -> None:
    """Wait until the root that was opened for a guest is closed."""
    for driver in (d for d in _drivers() if d.root.path == path):
        await asyncio.wait_for(driver._closed.wait(), 10)
    Root(path).purge()


def _drivers() -> list[Driver]:
    return list(opened.values())


def _open_below(path: Path) -> list[Path]:
    """The roots below PATH that this process has open; other tests share some elsewhere."""
    return [driver.root.path for driver in _drivers() if driver.root.path.is_relative_to(path)]


async def test_one_that_outlives_the_process_needs_no_open_root(embed: OpenDriver, tmp_path: Path) -> None:
    uri, options = make_uri(tmp_path / "b"), Options(keep_running=True)
    async with embed(tmp_path / "a") as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"), 0, Client(options))
        await to_uri(machine, uri, LIVE)
        assert _open_below(tmp_path) == [tmp_path / "a"]
        async with embed(tmp_path / "b") as there:
            moved = there.by_name("a")
            assert state(moved) == ("RUNNING", "MIGRATED")
            await tiny.tell(tmp_path / "guest", b"x")
            await moved.destroy()


async def test_a_root_that_was_opened_for_nothing_is_closed(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "a") as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        xml = machine.xml().replace("pc-q35-7.2", "pc-q35-7.1")
        with pytest.raises(EmbedError, match="machine type"):
            await to_uri(machine, make_uri(tmp_path / "b"), Plan(xml=xml))
        assert _open_below(tmp_path) == [tmp_path / "a"]


async def test_to_the_root_where_it_is(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "a") as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        (tmp_path / "link").symlink_to(tmp_path / "a")
        with pytest.raises(InvalidCall, match=r"^Attempt to migrate guest to the same host$"):
            await to_uri(machine, make_uri(tmp_path / "link"), LIVE)
        with pytest.raises(NoConnect):
            await to_uri(machine, "qemu+ssh://there/system", LIVE)


# What is no guest


@contextlib.asynccontextmanager
async def visit(driver: Driver) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sock = connect_unix(driver.root.driver_socket)
    sock.setblocking(False)
    reader, writer = await asyncio.open_unix_connection(sock=sock)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


def call(name: object, arguments: object, version: object = migration_wire.VERSION) -> bytes:
    return json.dumps({"version": version, "call": name, "arguments": arguments}).encode() + b"\n"


OFFER = migration_wire.spell_fields(Offer(xml="<domain/>"))


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (call("prepare", OFFER, version=2), (InvalidArgument, "version 2 is spoken there, 1 here")),
        (call("explode", {}), (InvalidArgument, "nobody knows the call 'explode'")),
        (call("prepare", {}), (InvalidArgument, "Offer must have xml")),
        (call("prepare", OFFER | {"more": 1}), (InvalidArgument, "Offer must have xml")),
        (call("prepare", OFFER | {"nvram": 1}), (InvalidArgument, "'nvram' of Offer is 1")),
        (call("prepare", OFFER | {"xml": "<not-a-domain/>"}), (XMLError, "expecting root element of 'domain'")),
        (call("finish", {}), (OperationInvalid, "no guest is awaited")),
        (call("finish", {"a": [1]}), (InvalidArgument, "must be numbers and words")),
        (call("finish", 7), (InvalidArgument, "must be numbers and words")),
    ],
)
async def test_what_is_answered_with_an_error(
    embed: OpenDriver, message: bytes, error: tuple[type[EmbedError], str]
) -> None:
    async with embed() as driver, visit(driver) as (reader, writer):
        writer.write(message)
        answer = json.loads(await asyncio.wait_for(reader.readline(), 10))
        raised = migration_wire.read_error(answer["error"])
        assert type(raised) is error[0]
        assert error[1] in raised.message
        assert driver.machines() == []


@pytest.mark.parametrize("line", [b"\n", b"[]\n", b"{\n", b"\xff\xfe\n", b"7" * 200_000 + b"\n"])
async def test_what_is_no_message_is_hung_up(
    embed: OpenDriver, line: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migration_wire, "LINE_BYTES", 100_000)
    async with embed() as driver, visit(driver) as (reader, writer):
        writer.write(line)
        assert await asyncio.wait_for(reader.read(), 10) == b""
    assert "a guest did not arrive: invalid argument: a message" in caplog.text


async def test_who_says_nothing_is_hung_up(embed: OpenDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_server, "FIRST_MESSAGE_TIMEOUT_S", 0.1)
    async with embed() as driver, visit(driver) as (reader, _):
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_root_is_closed_under_a_visitor(embed: OpenDriver) -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with embed() as driver:
            reader, writer = await stack.enter_async_context(visit(driver))
            writer.write(call("explode", {}))
            assert await asyncio.wait_for(reader.readline(), 10)
        assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_who_hangs_up_is_not_awaited_any_more(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "a") as driver, embed(tmp_path / "b") as there:
        machine = await driver.create_xml(tiny.xml(tmp_path / "guest"))
        events = Events(there)
        remote = await Remote.connect(connect_unix(there.root.driver_socket))
        place = await remote.prepare(Offer(xml=machine.xml()))
        assert place is not None
        assert place.is_socket()
        with pytest.raises(OperationInvalid, match="a guest is awaited already"):
            await remote.prepare(Offer(xml=machine.xml()))
        await remote.close()
        assert await events.until("STOPPED/FAILED") == ["STARTED/MIGRATED", "STOPPED/FAILED"]
        assert not place.exists()


async def test_another_user_is_not_let_in(embed: OpenDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with embed() as driver:
        assert driver.root.driver_socket.stat().st_mode & 0o777 == 0o600
        sock = connect_unix(driver.root.driver_socket)
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        with pytest.raises(SystemFailure, match=r"belongs to user \d+, not to 4711"):
            await Remote.connect(sock)


async def test_the_destination_hangs_up(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed, match="Lost connection to destination host"):
        await _answered(b"")
    with pytest.raises(InternalError, match="said something unexpected"):
        await _answered(b'{"return": 7}\n')
    with pytest.raises(InternalError, match="said something unexpected"):
        await _answered(b'{"error": {"class": "Exception", "detail": "", "origin": 10}}\n')


async def _answered(answer: bytes) -> Any:
    """What a destination's ANSWER to prepare() comes to."""
    ours, theirs = socket.socketpair()
    theirs.sendall(answer)
    theirs.shutdown(socket.SHUT_WR)
    remote = await Remote.connect(ours)
    try:
        return await remote.prepare(Offer(xml=""))
    finally:
        await remote.close()
        theirs.close()


def test_errors_keep_their_class_as_far_as_both_know_it() -> None:
    class Special(OperationFailed):
        pass

    read = migration_wire.read_error(migration_wire.spell_error(Special("x")))
    assert type(read) is OperationFailed
    assert (read.message, read.origin) == (Special("x").message, Special("x").origin)


async def test_a_slow_destination(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration_client, "PREPARE_TIMEOUT_S", 0.1)
    ours, theirs = socket.socketpair()
    remote = await Remote.connect(ours)
    with pytest.raises(EmbedError, match=r"the destination did not answer 'prepare' within 0\.1 s"):
        await remote.prepare(Offer(xml=""))
    await remote.close()
    theirs.close()
