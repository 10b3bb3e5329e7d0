"""One Ethernet segment of a root: the cards of its machines, and the network's own host, on a switch."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_embedvm.driver.network.cable import Cable
from pytest_embedvm.network.gateway import Gateway
from pytest_embedvm.network.switch import Port, Switch

#: Sees each frame of a card, with whether the card sent it.
Tap = Callable[[bytes, bool], None]


@dataclass(frozen=True)
class Impairment:
    """What is wrong with a link, in each direction: seconds of delay, and the share of frames that are lost."""

    delay: float = 0.0
    loss: float = 0.0


class Link:
    """A card's place on a segment."""

    def __init__(self, segment: Segment, name: str) -> None:
        self.port = Port(name)
        self.taps: list[Tap] = []
        self.impairment = Impairment()
        self._segment = segment
        self._cable: Cable | None = None

    @property
    def connected(self) -> bool:
        return self._cable is not None

    def connect(self, sock: socket.socket, on_lost: Callable[[], None]) -> None:
        """Have the card on SOCK here."""
        self._cable = Cable(sock, self._received, on_lost)

    def _received(self, frames: list[bytes]) -> None:
        self._watch(frames, sent=True)
        self._impaired(frames, lambda whole: self._segment.receive(self, whole))

    def send(self, frames: list[bytes]) -> None:
        """Have FRAMES reach the card."""
        self._impaired(frames, self._deliver)

    def _deliver(self, frames: list[bytes]) -> None:
        self._watch(frames, sent=False)
        if self._cable is not None:
            self._cable.send(frames)

    def _watch(self, frames: Iterable[bytes], *, sent: bool) -> None:
        for tap in self.taps:
            for frame in frames:
                tap(frame, sent)

    def _impaired(self, frames: list[bytes], then: Callable[[list[bytes]], None]) -> None:
        wrong = self.impairment
        if wrong.loss:
            frames = [frame for frame in frames if random.random() >= wrong.loss]  # noqa: S311 - no secret
        if wrong.delay:
            asyncio.get_running_loop().call_later(wrong.delay, then, frames)
        elif frames:
            then(frames)

    def forget(self) -> None:
        """In a forked child: close the copy of the card's socket, or QEMU would not notice when the parent is gone."""
        if self._cable is not None:
            self._cable.forget()

    def disconnect(self) -> None:
        """Take the card away; the place stays."""
        cable, self._cable = self._cable, None
        if cable is not None:
            cable.close()
        self._segment.switch.forget(self.port)


class Segment:
    """Links on a switch, beside a gateway that answers."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.switch = Switch()
        self.links: dict[Port, Link] = {}
        self._inner = Port("gateway", inner=True)
        self.switch.plug(self._inner)

    def plug(self, name: str) -> Link:
        """A new place for a card called NAME."""
        link = Link(self, name)
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
