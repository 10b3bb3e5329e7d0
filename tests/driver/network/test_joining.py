"""joining: a loaded guest does not go on before QEMU has taken up the cables of its cards."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from pytest_embedvm.driver.network import joining
from pytest_embedvm.driver.network.joining import wait_joined
from pytest_embedvm.driver.react import HANDLERS
from pytest_embedvm.errors import OperationTimeout

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running

NETDEVS = (
    "-netdev",
    '{"type":"stream","addr":{"type":"fd","str":"9"},"server":true,"id":"hostnet0"}',
    "-netdev",
    '{"type":"stream","addr":{"type":"fd","str":"10"},"server":false,"id":"hostnet1"}',
    "-netdev",
    '{"type":"user","id":"hostnet2"}',
    "-netdev",
    "socket,id=own,listen=:1",
)
# QEMU 7.2's answers to `info network`.
WAITS = "net0: index=0,type=nic,model=virtio-net-pci\r\n \\ hostnet0: index=0,type=stream,\r\n"
JOINED = WAITS.replace("stream,", "stream,unix:/run/net0.sock")


class Monitor:
    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked = asyncio.Event()

    async def execute(self, _command: str, _arguments: object) -> str:
        self.asked.set()
        return self.answer


def running_with(answer: str, argv: tuple[str, ...] = NETDEVS) -> Running:
    monitor = Monitor(answer)
    return cast(
        "Running", SimpleNamespace(argv=("qemu", *argv), monitor=monitor, joined=set(), has_joined=asyncio.Event())
    )


async def test_nothing_is_asked_without_a_cable() -> None:
    running = running_with(WAITS, NETDEVS[2:])
    await wait_joined(running)
    assert not cast("Monitor", running.monitor).asked.is_set()


async def test_what_was_taken_up_before_is_not_awaited() -> None:
    await wait_joined(running_with(JOINED))


async def test_what_is_taken_up_later_is_awaited() -> None:
    running = running_with(WAITS)
    waiting = asyncio.ensure_future(wait_joined(running))
    await cast("Monitor", running.monitor).asked.wait()
    for name in ("hostnet1", "hostnet0"):
        await asyncio.sleep(0)
        assert not waiting.done()
        HANDLERS["NETDEV_STREAM_CONNECTED"](cast("Machine", None), running, {"netdev-id": name})
    await waiting


async def test_what_is_never_taken_up_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "JOIN_TIMEOUT_S", 0.01)
    with pytest.raises(OperationTimeout, match=r"the cable of hostnet0 within 0\.01 s; last seen: net0"):
        await wait_joined(running_with(WAITS))
