"""What the two sides of a migration say to each other, whether or not they are in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pytest_embedvm.driver.long_job import Stats


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A guest that is to come."""

    xml: str
    #: What the destination is to define, if something else than `xml`.
    persistent_xml: str | None = None
    #: The variable store whose content it takes along.
    nvram: str | None = None
    #: Whether the destination defines it.
    persist: bool = False
    #: Whether it stays paused there.
    paused: bool = False
    #: Whether only its definition comes.
    offline: bool = False
    #: Whether it ends with a connection.
    autodestroy: bool = False


@dataclass(frozen=True, kw_only=True)
class Arrival:
    """A guest that has come."""

    name: str
    uuid: str


class Peer(Protocol):
    """The destination of one migration, as the source sees it: prepare, then finish or abandon."""

    async def prepare(self, offer: Offer) -> Path | None:
        """Start what OFFER is to become; returns the socket where the guest is awaited, None for an offline one.

        :raise EmbedError: when it cannot be had there. Nothing of it stays.
        """

    async def finish(self, stats: Stats) -> Arrival:
        """All of the guest was sent, with these figures: let it run there.

        :raise EmbedError: when it does not. Nothing of it stays.
        """

    async def abandon(self) -> str:
        """Take back all there is of it; returns what its QEMU said if that had ended by itself, or nothing.

        :raise EmbedError: when nobody knows whether it is gone.
        """

    async def wait_lost(self) -> None:
        """Wait until the destination is gone, which is not to be while it is awaited."""

    async def close(self) -> None:
        """The source has no more to say."""
