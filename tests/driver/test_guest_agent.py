from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainQemuAgentCommandTimeoutValues as Timeout
from pytest_embedvm.constants import DomainShutdownFlagValues
from pytest_embedvm.driver import react
from pytest_embedvm.driver.descriptors import listen_unix
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.guest_agent import AgentChannel
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.errors import AgentUnresponsive, ArgumentUnsupported, EmbedError, InternalError, OperationInvalid
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver
from tests.qemu.test_agent import FakeAgent, pong

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
PING = '{"execute": "guest-ping"}'
AGENT = DomainShutdownFlagValues.GUEST_AGENT
ACPI = DomainShutdownFlagValues.ACPI_POWER_BTN


async def accepted(listener: socket.socket) -> socket.socket:
    listener.setblocking(False)
    peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), 10)
    return peer


async def test_waits_for_the_guest_only_as_long_as_it_is_told(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "s") as listener:
        channel = AgentChannel("channel0", tmp_path / "s")
        for timeout in (Timeout.BLOCK, Timeout.DEFAULT, Timeout.NOWAIT):
            with pytest.raises(AgentUnresponsive) as caught:
                await channel.send({"execute": "guest-ping"}, timeout=timeout)
            assert caught.value.message == "Guest agent is not responding: QEMU guest agent is not connected"
        with pytest.raises(AgentUnresponsive, match="the guest did not open its channel within 1 s"):
            await channel.send({"execute": "guest-ping"}, timeout=1)
        asked = asyncio.create_task(channel.send({"execute": "guest-ping"}, timeout=30))
        await asyncio.sleep(0)
        channel.guest_opened()
        peer = await accepted(listener)
        fake = FakeAgent(peer, pong)
        running = asyncio.create_task(fake.run())
        assert await asked == {"return": "guest-ping"}
        await channel.close()
        await running
        assert fake.writer
        fake.writer.close()
        await fake.writer.wait_closed()


async def refusal(call: object) -> tuple[type[EmbedError], str]:
    with pytest.raises(EmbedError) as caught:
        await call  # type: ignore[misc]
    return type(caught.value), caught.value.message


async def test_without_a_channel(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path))
        unsupported = (ArgumentUnsupported, "argument unsupported: QEMU guest agent is not configured")
        assert await refusal(machine.agent_command(PING, 1)) == unsupported
        assert await refusal(machine.shutdown(AGENT)) == unsupported
        assert await refusal(machine.reboot(AGENT)) == unsupported
        await machine.shutdown(AGENT | ACPI)
        await machine.suspend()
        not_running = (OperationInvalid, "Requested operation is not valid: domain is not running")
        assert await refusal(machine.agent_command(PING, 1)) == not_running
        assert await refusal(machine.shutdown(AGENT)) == not_running
        await machine.reboot()


async def with_agent(driver: Driver, directory: Path) -> Machine:
    return await driver.create_xml(tiny.xml(directory, devices=CHANNEL))


async def test_with_a_channel_that_the_guest_did_not_open(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / ("long" * 40)) as driver:
        machine = await with_agent(driver, tmp_path)
        absent = (AgentUnresponsive, "Guest agent is not responding: QEMU guest agent is not connected")
        assert await refusal(machine.agent_command(PING, Timeout.DEFAULT)) == absent
        assert await refusal(machine.shutdown(AGENT)) == absent
        assert "state='disconnected'" in machine.xml()
        await machine.shutdown(AGENT | ACPI)
        await machine.shutdown()
        assert (await refusal(machine.agent_command("zz", 1)))[0] is InternalError


async def test_the_guest_opens_and_closes_it(embed: OpenDriver, tmp_path: Path) -> None:
    """QEMU's event is ours here: the tiny guest has no virtio driver."""
    async with embed() as driver:
        events = Events(driver)
        machine = await with_agent(driver, tmp_path)
        await events.so_far(machine)
        running = machine._running
        assert running
        for state, other in (("connected", "disconnected"), ("disconnected", "connected")):
            event = {"event": "VSERPORT_CHANGE", "data": {"id": "channel0", "open": state == "connected"}}
            react.react(machine, running, event)
            react.react(machine, running, event)
            assert await events.so_far(machine) == ["AGENT_LIFECYCLE"]
            assert f"state='{state}'" in machine.xml()
            assert f"state='{other}'" not in machine.xml()
        react.react(machine, running, {"event": "VSERPORT_CHANGE", "data": {"id": "channel0", "open": True}})
        silent = await refusal(machine.agent_command(PING, 1))
        assert silent[0] is AgentUnresponsive
        assert "guest-sync-delimited did not come within" in silent[1]


async def test_a_reply_is_passed_on_as_it_is(tmp_path: Path) -> None:
    with listen_unix(tmp_path / "s") as listener:
        channel = AgentChannel("channel0", tmp_path / "s")
        channel.guest_opened()
        asked = asyncio.create_task(channel.send(json.loads(PING), timeout=Timeout.BLOCK))
        peer = await accepted(listener)
        fake = FakeAgent(peer, pong)
        running = asyncio.create_task(fake.run())
        assert await asked == {"return": "guest-ping"}
        channel.guest_closed()
        assert not channel.connected
        await channel.close()
        await running
        assert fake.writer
        fake.writer.close()
        await fake.writer.wait_closed()
