"""One Ethernet segment of a root: the cards of its machines, and the network's own host, on a switch."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from pytest_embedvm.driver.network.cable import Cable
from pytest_embedvm.network.gateway import Gateway
from pytest_embedvm.network.impairment import Lane
from pytest_embedvm.network.shaping import Shaping
from pytest_embedvm.network.switch import Port, Switch
from pytest_embedvm.units import Rate, Rates

UNLIMITED: Final = Rates()

#: Where a frame says whom it is from.
SOURCE: Final = slice(6, 12)

#: Sees the frames that a card sends, and those it gets.
Tap = Callable[[list[bytes]], None]


class Way(Protocol):
    """What frames pass in one direction, in which they may have to wait."""

    @property
    def idle(self) -> bool: ...

    @property
    def next(self) -> float | None: ...

    def enter(self, frame: bytes, now: float) -> None: ...

    def arrived(self, now: float) -> list[bytes]: ...

    def clear(self) -> None: ...


W = TypeVar("W", bound=Way)


class Clocked(Generic[W]):
    """One direction of a link, on the loop's clock."""

    def __init__(self, lane: W, arrive: Callable[[list[bytes]], None]) -> None:
        self.lane = lane
        self._arrive = arrive
        self._timer: asyncio.TimerHandle | None = None

    def send(self, frames: list[bytes]) -> None:
        if self.lane.idle:
            self._arrive(frames)
            return
        now = asyncio.get_running_loop().time()
        for frame in frames:
            self.lane.enter(frame, now)
        self._turn()

    def _turn(self) -> None:
        """Let go on what has arrived, and be back for the next."""
        loop = asyncio.get_running_loop()
        self._stop_timer()
        arrived = self.lane.arrived(loop.time())
        if self.lane.next is not None:
            self._timer = loop.call_at(self.lane.next, self._turn)
        if arrived:
            self._arrive(arrived)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None

    def close(self) -> None:
        """Lose what is under way."""
        self._stop_timer()
        self.lane.clear()


def limited(rate: Rate | None, arrive: Callable[[list[bytes]], None]) -> Clocked[Shaping] | None:
    """What lets frames ARRIVE by RATE; None where nothing limits them."""
    return Clocked(Shaping(rate, asyncio.get_running_loop().time()), arrive) if rate else None


class Link:
    """A card's place on a segment: GUEST's with this MAC."""

    def __init__(self, segment: Segment, mac: str, guest: str, rates: Rates = UNLIMITED) -> None:
        self.port = Port(mac)
        self.guest = guest
        self.taps: list[Tap] = []
        #: An address that frames from the card must not come from.
        self.unheard: bytes | None = None
        self._segment = segment
        self._cable: Cable | None = None
        #: By the guest's name, which is the same in each run, so that what is lost is the same too.
        self._outward = Clocked(Lane(f"from {guest}"), lambda frames: segment.receive(self, frames))
        self._inward = Clocked(Lane(f"to {guest}"), self._deliver)
        self._limited_outward = limited(rates.outbound, self._outward.send)
        self._limited_inward = limited(rates.inbound, self._inward.send)

    @property
    def connected(self) -> bool:
        return self._cable is not None

    @property
    def outward(self) -> Lane:
        """What the card sends."""
        return self._outward.lane

    @property
    def inward(self) -> Lane:
        """What is sent to the card."""
        return self._inward.lane

    def connect(self, sock: socket.socket, on_lost: Callable[[], None]) -> None:
        """Have the card on SOCK here."""
        self._cable = Cable(sock, self._received, on_lost)

    def _received(self, frames: list[bytes]) -> None:
        if self.unheard is not None:
            frames = [frame for frame in frames if frame[SOURCE] != self.unheard]
        self._watch(frames)
        (self._limited_outward or self._outward).send(frames)

    def send(self, frames: list[bytes]) -> None:
        """Have FRAMES reach the card."""
        (self._limited_inward or self._inward).send(frames)

    def _deliver(self, frames: list[bytes]) -> None:
        self._watch(frames)
        if self._cable is not None:
            self._cable.send(frames)

    def _watch(self, frames: list[bytes]) -> None:
        for tap in self.taps:
            tap(frames)

    def forget(self) -> None:
        """In a forked child: close the copy of the card's socket, or QEMU would not notice when the parent is gone."""
        if self._cable is not None:
            self._cable.forget()

    def disconnect(self) -> None:
        """Take the card away; the place stays."""
        cable, self._cable = self._cable, None
        if cable is not None:
            cable.close()
        for lane in (self._outward, self._inward, self._limited_outward, self._limited_inward):
            if lane is not None:
                lane.close()
        self._segment.switch.forget(self.port)


class Segment:
    """Links on a switch, beside a gateway that answers."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.switch = Switch()
        self.links: dict[Port, Link] = {}
        self._inner = Port("gateway", inner=True)
        self.switch.plug(self._inner)

    def plug(self, mac: str, guest: str, rates: Rates = UNLIMITED) -> Link:
        """A new place for GUEST's card with this MAC, where no more than RATES passes."""
        link = Link(self, mac, guest, rates)
        self.links[link.port] = link
        self.switch.plug(link.port)
        return link

    def unplug(self, link: Link) -> None:
        """Take LINK away; a second call does nothing."""
        link.disconnect()
        if self.links.pop(link.port, None):
            self.switch.unplug(link.port)

    def receive(self, link: Link, frames: Iterable[bytes]) -> None:
        """FRAMES came in at LINK: have them go where they belong, in their order."""
        self._forward(link.port, frames)

    def _forward(self, port: Port, frames: Iterable[bytes]) -> None:
        out: dict[Port, list[bytes]] = defaultdict(list)
        for frame in frames:
            for target in self.switch.receive(port, frame):
                out[target].append(frame)
        for_us = out.pop(self._inner, ())
        for target, batch in out.items():
            self.links[target].send(batch)
        for frame in for_us:
            self.inject(self.gateway.receive(frame, asyncio.get_running_loop().time()))

    def inject(self, frames: Iterable[bytes]) -> None:
        """Have FRAMES of the gateway's go out."""
        self._forward(self._inner, frames)

    def forget(self) -> None:
        """In a forked child: close what is the parent's."""
        for link in self.links.values():
            link.forget()

    def close(self) -> None:
        """Hang up on all cards."""
        for link in tuple(self.links.values()):
            self.unplug(link)
