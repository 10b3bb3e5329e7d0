"""Cards on a segment: what goes from one to another, and what is wrong with a link."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv4Address

import pytest

from pytest_embedvm.driver.network import cable
from pytest_embedvm.driver.network.segment import Link, Segment
from pytest_embedvm.network import frames
from pytest_embedvm.network.frames import Arp, Frame
from pytest_embedvm.network.gateway import Gateway
from pytest_embedvm.network.impairment import Impairment

OURS = frames.mac("52:54:00:00:00:fe")
A, B, C = (frames.mac(f"52:54:00:00:00:0{n}") for n in "123")
DEADLINE_S = 10.0
FIRST = IPv4Address("10.1.0.1")


class Card:
    """QEMU's end of a cable."""

    def __init__(self, segment: Segment, name: str, stack: ExitStack) -> None:
        self.link: Link = segment.plug(name, name)
        self.lost = asyncio.Event()
        self._socket, theirs = socket.socketpair()
        stack.callback(self._socket.close)
        self._socket.setblocking(False)
        self._read = b""

        def on_lost() -> None:
            self.link.disconnect()
            self.lost.set()

        self.link.connect(theirs, on_lost)

    async def send(self, *sent: bytes) -> None:
        data = b"".join(len(frame).to_bytes(4, "big") + frame for frame in sent)
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def send_raw(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            length = int.from_bytes(await self._exactly(4), "big")
            return await self._exactly(length)

    async def _exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
            assert data, "the segment hung up"
            self._read += data
        taken, self._read = self._read[:size], self._read[size:]
        return taken

    def hang_up(self) -> None:
        self._socket.close()


def frame(target: bytes, source: bytes, payload: bytes = b"hello") -> bytes:
    return bytes(Frame(target, source, frames.IPV4, payload))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def make(stack: ExitStack) -> tuple[Segment, Card, Card, Card]:
    segment = Segment(Gateway(OURS, FIRST))
    stack.callback(segment.close)
    a, b, c = (Card(segment, name, stack) for name in "abc")
    return segment, a, b, c


async def fence(*cards: Card) -> list[bytes]:
    """What reaches each of CARDS next, all having been sent a mark of the gateway's."""
    segment = cards[0].link._segment
    mark = frame(frames.BROADCAST, OURS, b"mark")
    segment.inject([mark])
    return [await card.receive() for card in cards]


async def test_frames_arrive_whole_and_in_their_order(stack: ExitStack) -> None:
    _, a, b, _ = make(stack)
    sent = [frame(B, A, bytes((n,)) * (n * 7 + 1)) for n in range(200)]
    await a.send(*sent)
    assert [await b.receive() for _ in sent] == sent


async def test_a_frame_may_come_in_pieces(stack: ExitStack) -> None:
    _, a, b, _ = make(stack)
    whole = frame(B, A)
    data = len(whole).to_bytes(4, "big") + whole
    for at in range(len(data)):
        await a.send_raw(data[at : at + 1])
    assert await b.receive() == whole


async def test_the_gateway_answers(stack: ExitStack) -> None:
    _, a, _, _ = make(stack)
    asks = Arp(1, A, IPv4Address("10.1.0.9"), bytes(6), FIRST)
    await a.send(bytes(Frame(frames.BROADCAST, A, frames.ARP, bytes(asks))))
    answer = Frame.read(await a.receive())
    assert answer
    assert (answer.source, answer.target) == (OURS, A)


async def test_a_known_address_is_not_everybodys(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    await b.send(frame(frames.BROADCAST, B))
    assert [await a.receive(), await c.receive()] == [frame(frames.BROADCAST, B)] * 2
    await a.send(frame(B, A))
    assert await b.receive() == frame(B, A)
    assert await fence(c) == [frame(frames.BROADCAST, OURS, b"mark")]


async def test_a_card_that_hangs_up_is_told_of_once_and_the_others_go_on(stack: ExitStack) -> None:
    segment, a, b, c = make(stack)
    b.hang_up()
    async with asyncio.timeout(DEADLINE_S):
        await b.lost.wait()
    assert not b.link.connected
    await a.send(frame(B, A))
    assert await c.receive() == frame(B, A)
    segment.unplug(b.link)
    segment.unplug(b.link)


async def test_a_length_that_no_frame_has_ends_the_cable(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    await a.send_raw((cable.LONGEST_FRAME + 1).to_bytes(4, "big"))
    async with asyncio.timeout(DEADLINE_S):
        await a.lost.wait()
    await b.send(frame(C, B))
    assert await c.receive() == frame(C, B)


async def test_a_card_that_takes_nothing_stops_nobody(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cable, "QUEUE_BYTES", 100_000)
    _, a, b, c = make(stack)
    for _ in range(100):
        await a.send(*[frame(frames.BROADCAST, A, bytes(1400))] * 10)
        assert len(await c.receive()) == 1414
    assert b.link._cable
    assert b.link._cable.dropped > 0


async def test_a_tap_sees_what_the_card_sends_and_gets(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    seen: list[bytes] = []
    b.link.taps.append(seen.extend)
    b.link.inward.impairment = Impairment(loss=1.0)
    await a.send(frame(frames.BROADCAST, A, b"1"))
    await c.receive()
    b.link.inward.impairment, b.link.outward.impairment = Impairment(), Impairment(loss=1.0)
    await b.send(frame(frames.BROADCAST, B, b"2"))
    await a.send(frame(frames.BROADCAST, A, b"3"))
    assert await b.receive() == await c.receive() == frame(frames.BROADCAST, A, b"3")
    # What the card was never given it has not seen; what it sent it has, wherever that went.
    assert sorted(seen) == [frame(frames.BROADCAST, A, b"3"), frame(frames.BROADCAST, B, b"2")]


async def test_a_link_that_loses_everything(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    b.link.inward.impairment = Impairment(loss=1.0)
    await a.send(frame(frames.BROADCAST, A))
    assert await c.receive() == frame(frames.BROADCAST, A)
    assert b.link.inward.lost == 1
    b.link.inward.impairment = Impairment()
    assert await fence(b) == [frame(frames.BROADCAST, OURS, b"mark")]


async def test_a_lossy_link_loses_the_same_in_each_run(stack: ExitStack) -> None:
    sent = [frame(frames.BROADCAST, A, bytes((n,))) for n in range(100)]
    runs = []
    for _ in range(2):
        _, a, b, c = make(stack)
        b.link.inward.impairment = Impairment(loss=0.5, seed=1)
        await a.send(*sent)
        assert [await c.receive() for _ in sent] == sent
        runs.append([await b.receive() for _ in range(100 - b.link.inward.lost)])
    assert runs[0] == runs[1]
    assert 0 < len(runs[0]) < 100


async def test_a_slow_link_delivers_later_and_in_order(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    b.link.inward.impairment = Impairment(delay=0.05)
    sent = [frame(frames.BROADCAST, A, bytes((n,))) for n in range(5)]
    began = asyncio.get_running_loop().time()
    await a.send(*sent)
    assert [await c.receive() for _ in sent] == sent
    mark = frame(frames.BROADCAST, OURS, b"mark")
    b.link._segment.inject([mark])
    b.link.inward.impairment = Impairment()
    assert [await b.receive() for _ in range(6)] == [*sent, mark]
    assert asyncio.get_running_loop().time() - began >= 0.05


async def test_what_is_under_way_is_lost_with_the_card(stack: ExitStack) -> None:
    _, a, b, c = make(stack)
    b.link.inward.impairment = b.link.outward.impairment = Impairment(delay=300.0)
    await a.send(frame(frames.BROADCAST, A))
    assert await c.receive() == frame(frames.BROADCAST, A)
    timer = b.link._inward._timer
    assert timer
    b.link.disconnect()
    assert timer.cancelled()
    assert b.link.inward.next is None


async def test_a_segment_that_ends_hangs_up_on_all(stack: ExitStack) -> None:
    segment, a, _, _ = make(stack)
    segment.close()
    with pytest.raises(AssertionError, match="hung up"):
        await a.receive()
