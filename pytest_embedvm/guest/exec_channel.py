"""Commands over the exec channel: the built-in guest's own server, ten times as quick as the agent."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import IO, Final

from pytest_embedvm import libvirt
from pytest_embedvm.guest.agent import AFTERMATH_S
from pytest_embedvm.guest.definition import EXEC_PORT
from pytest_embedvm.guest.errors import GuestStopped, ServerAbsent, WaitTimeout
from pytest_embedvm.guest.exec_link import Link, Outcome
from pytest_embedvm.guest.exec_wire import PADDING, TOKEN_BYTES, Kind, frame, pieces
from pytest_embedvm.guest.wait import Deadline, Watch

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: How long the guest's server may take to answer at all; then it is asked once more, and then the agent is.
SYNC_TIMEOUT_S: Final = 1.0
SECOND_SYNC_TIMEOUT_S: Final = 5.0
#: After which it is tried again.
RETRY_S: Final = 10.0
#: How long a command that was killed may take to be gone, and its outputs to arrive.
KILL_TIMEOUT_S: Final = 5.0
#: So much goes out without waiting for the guest, whatever it does.
_SMALL_BYTES: Final = 4096


class _Gone(Exception):
    """The server, or the link to it."""


@dataclass(frozen=True)
class _Awaited:
    what: str
    deadline: Deadline
    sink: IO[bytes] | None


class ExecChannel:
    """The exec channel of one guest: one command at a time."""

    def __init__(self, domain: libvirt.virDomain, watch: Watch) -> None:
        self._domain = domain
        self._watch = watch
        self._turn = threading.Lock()
        self._numbers = itertools.count(1)
        self._link: Link | None = None
        self._has_port: bool | None = None
        self._not_before = 0.0

    def run(
        self,
        words: Sequence[str],
        data: bytes | None,
        awaited: str,
        deadline: Deadline,
        sink: IO[bytes] | None = None,
    ) -> Outcome | None:
        """Run the command WORDS with the input DATA; None when the channel is in use or not served, or not there.

        :param sink: where its standard output goes as it comes, however much that is.
        :raise GuestStopped: as soon as the guest is dead or was reset.
        :raise WaitTimeout: when the guest does not take the command in time.
        :raise ServerAbsent: when the server goes away meanwhile.
        """
        if not self._turn.acquire(blocking=False):
            return None
        try:
            link = self._ready(deadline)
            return None if link is None else self._converse(link, words, data, _Awaited(awaited, deadline, sink))
        finally:
            self._turn.release()

    def is_ready(self, deadline: Deadline) -> bool:
        """Whether a command that is run now would go this way."""
        if not self._turn.acquire(blocking=False):
            return False
        try:
            return self._ready(deadline) is not None
        finally:
            self._turn.release()

    def follow(self, domain: libvirt.virDomain) -> None:
        """Go on with DOMAIN, a new run of it."""
        self.close()
        self._domain = domain
        self._not_before = 0.0

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _ready(self, deadline: Deadline) -> Link | None:
        """A link to a server that answers, if there is one."""
        link = self._link
        if link is not None and link.in_step and link.resets == self._watch.resets:
            return link
        if self._watch.dead() is not None or time.monotonic() < self._not_before:
            return None
        try:
            return self._synchronized(deadline) if self._is_served() else None
        except libvirt.libvirtError:
            self.close()  # the domain is gone, or somebody else has the channel: the agent's call says what is so
            return None

    def _is_served(self) -> bool:
        """Whether the guest has the port open."""
        if self._has_port is False:
            return False
        # S314: our own driver wrote this document.
        document = ET.fromstring(self._domain.XMLDesc())  # noqa: S314
        target = document.find(f"devices/channel/target[@name='{EXEC_PORT}']")
        self._has_port = target is not None
        return target is not None and target.get("state") == "connected"

    def _synchronized(self, deadline: Deadline) -> Link | None:
        if self._link is None or self._link.broken:
            self.close()
            stream = self._domain.connect().newStream(0)
            self._domain.openChannel(EXEC_PORT, stream, 0)
            self._link = Link(stream, self._watch)
        for padding, seconds in (b"", SYNC_TIMEOUT_S), (PADDING, SECOND_SYNC_TIMEOUT_S):
            limit = Deadline(min(seconds, deadline.remaining))
            try:
                self._synchronize(self._link, padding, limit)
            except WaitTimeout:
                continue
            if self._link.in_step:
                return self._link
            break
        self.close()
        if deadline.remaining:
            self._not_before = time.monotonic() + RETRY_S
        return None

    def _synchronize(self, link: Link, padding: bytes, deadline: Deadline) -> None:
        token = os.urandom(TOKEN_BYTES)
        link.expect(token)
        awaited = "an answer of the guest's server for commands"
        self._send(link, padding + frame(Kind.SYNC, 0, token), awaited, deadline)
        self._watch.until(awaited, lambda: link.in_step or link.broken or None, deadline)

    def _send(self, link: Link, data: bytes, awaited: str, deadline: Deadline) -> None:
        if len(data) <= _SMALL_BYTES:
            link.send(data)
            return
        try:
            self._watch.call(awaited, lambda: link.send(data), deadline)
        except (WaitTimeout, GuestStopped):
            self.close()  # which ends the call: what it has not sent must not come behind something else
            raise

    def _converse(self, link: Link, words: Sequence[str], data: bytes | None, awaited: _Awaited) -> Outcome:
        number = next(self._numbers) & 0xFFFFFFFF
        text = b"".join(word.encode() + b"\0" for word in words)
        order = pieces(Kind.WORDS, number, text) + pieces(Kind.INPUT, number, data or b"") + frame(Kind.RUN, number)
        link.begin(number, streamed=awaited.sink is not None)
        try:
            self._send(link, order, awaited.what, awaited.deadline)
            return link.outcome(self._awaited_end(link, number, awaited))
        except (libvirt.libvirtError, _Gone) as error:
            self._explain(link, awaited)
            raise ServerAbsent from error
        finally:
            link.end()

    def _explain(self, link: Link, awaited: _Awaited) -> None:
        """:raise GuestStopped: when the link has ended because the guest did."""
        reason = self._watch.reason_of_end()
        if reason is not None:
            raise self._watch.gone(awaited.what, reason)
        self._watch.refuse_if_gone(awaited.what, link.resets, min(AFTERMATH_S, awaited.deadline.remaining))

    def _awaited_end(self, link: Link, number: int, awaited: _Awaited) -> WaitTimeout | None:
        """Wait for the command's end; if that does not come in time, kill it, and return that."""
        try:
            self._await_end(link, awaited)
        except WaitTimeout as timeout:
            link.send(frame(Kind.KILL, number))
            # A descendant that is nobody's child any more may hold its outputs open.
            with contextlib.suppress(WaitTimeout):
                self._await_end(link, replace(awaited, deadline=Deadline(KILL_TIMEOUT_S)))
            return timeout
        return None

    def _await_end(self, link: Link, awaited: _Awaited) -> None:
        def look() -> bool | None:
            if link.ended or (awaited.sink is not None and link.has_output):
                return True
            if self._watch.resets != link.resets:
                raise self._watch.gone(awaited.what, "was reset")
            if not link.in_step and self._watch.dead() is None:
                raise _Gone
            return None

        ended = False
        while not ended:
            self._watch.until(awaited.what, look, awaited.deadline)
            ended = link.ended
            if awaited.sink is not None:
                awaited.sink.write(link.take())
