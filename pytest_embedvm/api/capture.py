"""What passes a network card, as a file: no names of libvirt's."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from pytest_embedvm.api._object import Session
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.faults import checked
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.network import capture as driver
from pytest_embedvm.units import MIB

__all__ = ["CAPTURE_BYTES", "Capture", "capture"]

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: The most that a capture holds unless told otherwise.
CAPTURE_BYTES: Final = 64 * MIB


class Capture:
    """A pcap file that grows until `stop`, and is valid at any time: Ethernet, with nanoseconds.

    What the card sends is in it whether it arrives anywhere or not; what is sent to it is in it when the card gets it.
    """

    def __init__(self, session: Session, made: driver.Capture) -> None:
        self._session = session
        self._made = made

    @property
    def path(self) -> Path:
        """The file, in the domain's root and as long there as the root is."""
        return self._made.path

    @property
    def frames(self) -> int:
        """How many frames were kept so far."""
        return self._made.frames

    @property
    def left_out(self) -> int:
        """How many frames came when the file was full, and are not in it."""
        return self._made.left_out

    def flush(self) -> None:
        """Return when all that has passed so far is in the file."""
        if not self._session.closed:
            self._session.loop.run(self._made.flush())

    def stop(self) -> None:
        """End it; nothing to do when it has ended: with its connection, or the domain."""
        if not self._session.closed:
            self._session.loop.run(self._session.let_go(self._made))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


def capture(domain: virDomain, mac: str, *, limit: int = CAPTURE_BYTES) -> Capture:
    """Begin to capture what passes DOMAIN's card with this MAC, up to LIMIT bytes.

    :raise libvirtError: OPERATION_INVALID when the domain does not run, INVALID_ARG when it has no such card,
        SYSTEM_ERROR when the file cannot be made.
    """

    async def begun(machine: Machine) -> driver.Capture:
        return await domain._session.keep(await driver.capture(machine, mac, limit))

    return Capture(domain._session, checked(domain, "capture", lambda: domain._order(begun)))
