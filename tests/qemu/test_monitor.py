from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pytest_embedvm.errors import OperationTimeout
from pytest_embedvm.qemu import monitor as module
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.monitor import CommandError, Monitor, MonitorClosed
from pytest_embedvm.qemu.process import Process

GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": "p"}, "capabilities": []}}
EVENT = {"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}

Reply = Callable[["Peer", dict[str, Any]], Awaitable[None]]


class Peer:
    """The QEMU end of a monitor, played by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *messages: object) -> None:
        self._writer.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    async def serve(self, reply: Reply) -> None:
        self.send(GREETING)
        async for command in self._commands():
            if command["execute"] == "qmp_capabilities":
                self.send({"return": {}})  # asked without an id
            else:
                await reply(self, command)

    async def _commands(self) -> AsyncIterator[dict[str, Any]]:
        """QMP is a stream of JSON values with nothing between them."""
        text = ""
        while data := await self._reader.read(2**16):
            text += data.decode()
            while text:
                try:
                    command, end = json.JSONDecoder().raw_decode(text)
                except json.JSONDecodeError:
                    break
                text = text[end:]
                yield command

    def hang_up(self) -> None:
        self._writer.close()


@asynccontextmanager
async def conversation(reply: Reply, on_event: module.OnEvent | None = None) -> AsyncIterator[Monitor]:
    ours, theirs = socket.socketpair()
    peer = Peer(*await asyncio.open_connection(sock=theirs))
    serving = asyncio.create_task(peer.serve(reply))
    monitor = await Monitor.connect(ours, "test", on_event)
    try:
        yield monitor
    finally:
        await monitor.close()
        peer.hang_up()
        await serving


async def echo(peer: Peer, command: dict[str, Any]) -> None:
    peer.send({"return": command.get("arguments"), "id": command["id"]})


async def refuse(peer: Peer, command: dict[str, Any]) -> None:
    peer.send({"error": {"class": "DeviceNotFound", "desc": "Device 'x' not found"}, "id": command["id"]})


async def be_silent(peer: Peer, command: dict[str, Any]) -> None:
    pass


async def hang_up(peer: Peer, command: dict[str, Any]) -> None:
    peer.hang_up()


async def send_event_then_reply(peer: Peer, command: dict[str, Any]) -> None:
    peer.send(EVENT, {"return": {}, "id": command["id"]})


def test_a_command_and_its_value() -> None:
    async def main() -> None:
        async with conversation(echo) as monitor:
            assert await monitor.execute("anything", {"x": 1}) == {"x": 1}
            assert monitor.connected
            assert monitor.greeting["qemu"]["major"] == 7

    asyncio.run(main())


SECRETS = (
    ("set_password", {"protocol": "vnc", "password": "hush"}),
    ("change-vnc-password", {"password": "hush"}),
    ("object-add", {"qom-type": "secret", "id": "s", "data": "hush"}),
    ("human-monitor-command", {"command-line": "set_password vnc hush"}),
)


@pytest.mark.parametrize(("command", "arguments"), SECRETS)
def test_a_secret_is_sent_and_never_shown(
    command: str, arguments: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []

    async def keep(peer: Peer, message: dict[str, Any]) -> None:
        sent.append(message["arguments"])
        peer.send({"return": {}, "id": message["id"]})

    async def main() -> None:
        async with conversation(keep) as monitor:
            await monitor.execute(command, arguments)
            assert command in "".join(monitor.trace)
            assert "hush" not in "".join(monitor.trace)
        async with conversation(be_silent) as monitor:
            monkeypatch.setattr(module, "COMMAND_TIMEOUT_S", 0.01)
            with pytest.raises(OperationTimeout) as caught:
                await monitor.execute(command, arguments)
            with pytest.raises(OperationTimeout) as raw:
                await monitor.execute_raw({"execute": command, "arguments": arguments}, timeout=0.01)
            assert "hush" not in caught.value.message + raw.value.message

    asyncio.run(main())
    assert sent == [arguments]


@pytest.mark.parametrize("ticks", range(6))
def test_a_cancel_that_meets_the_reply_is_not_lost(ticks: int) -> None:
    """As asyncio.wait_for() loses it before Python 3.12: the cancel of an interrupted call, or of a runner's signal."""

    async def main() -> None:
        replied = asyncio.Event()

        async def reply_and_tell(peer: Peer, command: dict[str, Any]) -> None:
            await echo(peer, command)
            replied.set()

        async def command_and_wait() -> None:
            await monitor.execute("x")
            await asyncio.Event().wait()

        async with conversation(reply_and_tell) as monitor:
            task = asyncio.create_task(command_and_wait())
            await replied.wait()
            for _ in range(ticks):
                await asyncio.sleep(0)
            task.cancel()
            done, _ = await asyncio.wait({task}, timeout=10)
            assert done
            assert task.cancelled()

    asyncio.run(main())


def test_an_event_is_handed_over_before_the_reply_behind_it() -> None:
    seen: list[str] = []

    async def main() -> None:
        async with conversation(send_event_then_reply, lambda event: seen.append(event["event"])) as monitor:
            await monitor.execute("stop")
            seen.append("reply")

    asyncio.run(main())
    assert seen == ["STOP", "reply"]


def test_a_refusal_carries_qemus_words() -> None:
    async def main() -> None:
        async with conversation(refuse) as monitor:
            await monitor.execute("device_del", {"id": "x"})

    with pytest.raises(CommandError) as caught:
        asyncio.run(main())
    assert (caught.value.command, caught.value.error_class) == ("device_del", "DeviceNotFound")
    assert str(caught.value) == "internal error: unable to execute QEMU command 'device_del': Device 'x' not found"


def test_a_raw_refusal_is_a_reply() -> None:
    async def main() -> dict[str, Any]:
        async with conversation(refuse) as monitor:
            return await monitor.execute_raw({"execute": "device_del"})

    assert asyncio.run(main())["error"]["class"] == "DeviceNotFound"


def test_a_missing_reply_says_what_was_awaited_and_last_seen() -> None:
    async def main() -> None:
        async with conversation(be_silent) as monitor:
            await monitor.execute("query-status", timeout=0.05)

    with pytest.raises(OperationTimeout, match=r"'query-status' within 0.05 s; last seen: > .*query-status"):
        asyncio.run(main())


def test_a_missing_greeting_says_who_owes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECT_TIMEOUT_S", 0.05)

    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            await Monitor.connect(ours, "the-guest")

    with pytest.raises(OperationTimeout, match=r"no QMP greeting from the-guest within 0.05 s"):
        asyncio.run(main())


def test_hanging_up_before_the_greeting() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        await Monitor.connect(ours, "the-guest")

    with pytest.raises(MonitorClosed, match="the-guest closed its monitor before the greeting"):
        asyncio.run(main())


def test_hanging_up_during_a_command() -> None:
    async def main() -> None:
        async with conversation(hang_up) as monitor:
            await monitor.execute("quit")

    with pytest.raises(MonitorClosed, match="'quit'"):
        asyncio.run(main())


def test_the_trace_is_both_directions_and_bounded() -> None:
    async def main() -> list[str]:
        async with conversation(echo) as monitor:
            await monitor.execute("long", {"x": "y" * module.TRACE_CHARACTERS})
            for _ in range(module.TRACE_MESSAGES):
                await monitor.execute("short", {})
                if len(monitor.trace) < 10:
                    assert all(len(line) < module.TRACE_CHARACTERS + 50 for line in monitor.trace)
                    assert any(line.endswith("characters)") for line in monitor.trace)
            return monitor.trace

    trace = asyncio.run(main())
    assert len(trace) == module.TRACE_MESSAGES
    assert {line[0] for line in trace} == {"<", ">"}


@asynccontextmanager
async def qemu() -> AsyncIterator[tuple[Process, Monitor]]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = Process.spawn(
            [
                *(str(find_binary()), "-nodefaults", "-display", "none", "-machine", "none"),
                *("-chardev", f"socket,id=m,fd={theirs.fileno()}", "-mon", "chardev=m,mode=control"),
            ],
            pass_fds=[theirs.fileno()],
        )
    try:
        monitor = await Monitor.connect(ours, "qemu")
        try:
            yield process, monitor
        finally:
            await monitor.close()
    finally:
        await process.kill()


def test_killing_qemu_closes_its_monitor() -> None:
    async def main() -> None:
        async with qemu() as (process, monitor):
            await process.kill()
            with pytest.raises(MonitorClosed, match="'query-status'"):
                await monitor.execute("query-status")
            assert not monitor.connected

    asyncio.run(main())


def test_quit_is_delivered_and_answered() -> None:
    async def main() -> int:
        async with qemu() as (process, monitor):
            await monitor.execute("quit")
            return await asyncio.wait_for(process.wait(), 10)

    assert asyncio.run(main()) == 0


def test_a_descriptor_reaches_qemu() -> None:
    async def main() -> None:
        async with qemu() as (_, monitor):
            reading, writing = os.pipe()
            try:
                monitor.send_descriptor(reading)
                await monitor.execute("getfd", {"fdname": "pipe"})
                await monitor.execute("closefd", {"fdname": "pipe"})
            finally:
                os.close(reading)
                os.close(writing)

    asyncio.run(main())
