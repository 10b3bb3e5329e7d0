"""The agent's protocol, against an agent written here; the real one is met in the guest's own tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from pytest_embedvm.errors import AgentUnresponsive, InternalError
from pytest_embedvm.qemu.agent import DELIMITER, Agent, AgentCommandError


class FakeAgent:
    """Answers guest-sync-delimited; `answers` gives the lines sent for any other command."""

    def __init__(self, sock: socket.socket, answers: Callable[[str], list[bytes]]) -> None:
        self._sock = sock
        self._answers = answers
        self.commands: list[str] = []
        self.writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        self._sock.setblocking(False)
        reader, self.writer = await asyncio.open_connection(sock=self._sock)
        while line := await reader.readline():
            message = json.loads(line.removeprefix(DELIMITER))
            self.commands.append(message["execute"])
            if message["execute"] == "guest-sync-delimited":
                assert line.startswith(DELIMITER)
                self.writer.write(DELIMITER + json.dumps({"return": message["arguments"]["id"]}).encode() + b"\n")
            for answer in self._answers(message["execute"]):
                self.writer.write(answer + b"\n")


def no_answer(command: str) -> list[bytes]:
    return []


def pong(command: str) -> list[bytes]:
    return [] if command == "guest-sync-delimited" else [b'{"return": "%s"}' % command.encode()]


def talk(
    scenario: Callable[[Agent, FakeAgent], Coroutine[Any, Any, None]], answers: Callable[[str], list[bytes]]
) -> None:
    async def run() -> None:
        async with conversation(answers) as (agent, fake):
            await scenario(agent, fake)

    asyncio.run(run())


@contextlib.asynccontextmanager
async def conversation(answers: Callable[[str], list[bytes]]) -> AsyncIterator[tuple[Agent, FakeAgent]]:
    ours, theirs = socket.socketpair()
    fake = FakeAgent(theirs, answers)
    task = asyncio.create_task(fake.run())
    agent = await Agent.connect(ours)
    yield agent, fake
    await agent.close()
    await task
    assert fake.writer
    fake.writer.close()
    await fake.writer.wait_closed()


def test_synchronizes_once_and_then_only_commands() -> None:
    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        assert await agent.execute("guest-ping") == "guest-ping"
        assert await agent.execute("guest-info", {"a": 1}) == "guest-info"
        assert fake.commands == ["guest-sync-delimited", "guest-ping", "guest-info"]

    talk(scenario, pong)


def test_one_at_a_time_each_with_its_own_reply() -> None:
    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        names = [f"guest-{n}" for n in range(20)]
        assert await asyncio.gather(*(agent.execute(name) for name in names)) == names

    talk(scenario, pong)


def test_throws_away_what_the_guest_says_of_the_past() -> None:
    stale = [b'{"return": "of the past"}', b"\xff garbage", b'\xff{"return": 77}', b'{"torn']

    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        assert fake.commands == []  # what follows is ahead of every reply
        fake._sock.send(b"\n".join(stale) + b"\n")
        assert await agent.execute("guest-ping") == "guest-ping"

    talk(scenario, pong)


def test_gets_back_in_step_after_a_timeout() -> None:
    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        with pytest.raises(AgentUnresponsive, match=r"the reply to guest-slow did not come within 0\.05 s"):
            await agent.execute("guest-slow", timeout=0.05)
        fake.writer.write(b'{"return": "late"}\n')  # type: ignore[union-attr]
        assert await agent.execute("guest-ping") == "guest-ping"
        assert fake.commands.count("guest-sync-delimited") == 2

    talk(scenario, lambda command: [] if command == "guest-slow" else pong(command))


def test_an_agent_that_never_answers() -> None:
    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        fake._answers = no_answer
        with pytest.raises(AgentUnresponsive, match=r"Guest agent is not responding: the reply to guest-ping"):
            await agent.execute("guest-ping", timeout=0.05)

    talk(scenario, no_answer)


def test_refuses_in_the_agents_own_words() -> None:
    refusal = b'{"error": {"class": "CommandNotFound", "desc": "The command nosuch has not been found"}}'

    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        with pytest.raises(AgentCommandError) as caught:
            await agent.execute("nosuch")
        assert caught.value.error_class == "CommandNotFound"
        assert caught.value.message == (
            "internal error: unable to execute QEMU agent command 'nosuch': The command nosuch has not been found"
        )
        assert await agent.send({"execute": "nosuch"}) == json.loads(refusal)

    talk(scenario, lambda command: [] if command == "guest-sync-delimited" else [refusal])


def test_a_reply_that_is_no_json() -> None:
    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        with pytest.raises(InternalError, match="no JSON object"):
            await agent.execute("guest-ping")
        with pytest.raises(InternalError, match="no JSON object"):
            await agent.execute("guest-ping")
        assert fake.commands.count("guest-sync-delimited") == 2

    talk(scenario, lambda command: [] if command == "guest-sync-delimited" else [b"[1]"])


def test_a_guest_that_closes_its_end() -> None:
    asked = asyncio.Event()

    def silent_at_first(command: str) -> list[bytes]:
        if command == "guest-ping" and not asked.is_set():
            asked.set()
            return []
        return pong(command)

    async def scenario(agent: Agent, fake: FakeAgent) -> None:
        waiting = asyncio.create_task(agent.execute("guest-ping"))
        await asked.wait()
        agent.forget()
        with pytest.raises(AgentUnresponsive, match="its channel closed while the reply to guest-ping was awaited"):
            await waiting
        assert await agent.execute("guest-info") == "guest-info"
        assert fake.commands == ["guest-sync-delimited", "guest-ping", "guest-sync-delimited", "guest-info"]

    talk(scenario, silent_at_first)


def test_a_channel_that_closes() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        agent = await Agent.connect(ours)
        theirs.close()
        with pytest.raises(AgentUnresponsive, match="its channel closed while the reply to guest-sync-delimited"):
            await agent.execute("guest-ping")
        await agent.close()

    asyncio.run(scenario())
