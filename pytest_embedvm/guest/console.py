"""The guest's console: everything it has shown, and typing at it."""

from __future__ import annotations

import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Final

from pytest_embedvm import libvirt
from pytest_embedvm.guest.errors import GuestError, last_lines
from pytest_embedvm.guest.transcript import Transcript
from pytest_embedvm.guest.wait import Deadline, Watch, if_connected

#: pytest shows the line that called, not these.
__tracebackhide__ = True

TIMEOUT_S: Final = 60.0
_READ_BYTES: Final = 65536
_CLOSE_TIMEOUT_S: Final = 5.0


def has_console(domain: libvirt.virDomain) -> bool:
    """Whether the running DOMAIN has a serial port or a console that can be opened."""
    # S314: our own driver wrote this document.
    devices = ET.fromstring(domain.XMLDesc()).find("devices")  # noqa: S314
    return devices is not None and any(devices.find(tag) is not None for tag in ("console", "serial"))


class Console:
    """A console, read from the moment it is opened; the whole transcript is kept."""

    def __init__(
        self,
        domain: libvirt.virDomain,
        transcript: Transcript,
        watch: Watch,
        *,
        show: Callable[[str], None] | None = None,
    ) -> None:
        """Open DOMAIN's console, if it has one; SHOW is called with each line as it is complete."""
        self._transcript = transcript
        self._watch = watch
        self._show = show
        self._shown = len(transcript.text)
        self._position = 0
        self._ended = False
        self._stream: libvirt.virStream | None = None
        self._reader: threading.Thread | None = None
        if has_console(domain):
            self._open(domain)

    def _open(self, domain: libvirt.virDomain) -> None:
        stream = domain.connect().newStream(0)
        domain.openConsole(None, stream, 0)
        self._stream, self._ended = stream, False
        self._reader = threading.Thread(target=self._read, args=(stream,), name="embedvm-console", daemon=True)
        self._reader.start()

    def _read(self, stream: libvirt.virStream) -> None:
        data: bytes | int = b"first"
        while data:
            try:
                data = stream.recv(_READ_BYTES)
            except libvirt.libvirtError:
                data = b""  # the stream was aborted, or its domain is gone
            with self._watch.changed:
                self._transcript.feed(data if isinstance(data, bytes) else b"")
                self._ended = self._ended or (not data and stream is self._stream)
                self._watch.changed.notify_all()
            if self._show is not None:
                self._show_lines(self._show)

    def _show_lines(self, show: Callable[[str], None]) -> None:
        new = self.text[self._shown :]
        complete = new[: new.rfind("\n") + 1]
        self._shown += len(complete)
        for line in complete.splitlines():
            show(line)

    def follow(self, domain: libvirt.virDomain, note: str) -> None:
        """Go on with the console of DOMAIN, a new run of it; the transcript goes on, with NOTE on a line of its own.

        `wait_for` finds what comes from then on.
        """
        self.close()
        self.note(note)
        with self._watch.changed:
            self._position = len(self._transcript.text)
        if has_console(domain):
            self._open(domain)

    def note(self, text: str) -> None:
        """Put TEXT, which no guest said, into the transcript, on a line of its own."""
        with self._watch.changed:
            begun = "" if self._transcript.text[-1:] in ("", "\n") else "\r\n"
            self._transcript.feed(f"{begun}--- embedvm: {text} ---\r\n".encode())

    def close(self) -> None:
        """Hang up; what has come stays readable."""
        if self._stream is not None and self._reader is not None:
            with if_connected():
                self._stream.abort()
            self._reader.join(_CLOSE_TIMEOUT_S)
            self._stream = None

    def _opened(self) -> libvirt.virStream:
        if self._reader is None:
            raise GuestError("the domain has no console: give it a <serial> or <console>")
        if self._stream is None or self._ended:
            raise GuestError("the console is closed")
        return self._stream

    @property
    def data(self) -> bytes:
        """All bytes since the console was opened."""
        with self._watch.changed:
            return self._transcript.data

    @property
    def text(self) -> str:
        r"""All of `data` as UTF-8, what is none replaced; lines end in \n alone."""
        with self._watch.changed:
            return self._transcript.text

    def tail(self, lines: int = 20) -> str:
        """The last LINES lines."""
        return "\n".join(last_lines(self.text, lines))

    def wait_for(
        self, pattern: str | re.Pattern[str], timeout: float = TIMEOUT_S, *, from_start: bool = False
    ) -> re.Match[str]:
        r"""The next match of PATTERN, a regular expression, in the console's text.

        The search begins where the last match ended, so calls in a row find things in a row, and what came
        before the call counts too. A string is compiled with MULTILINE.

        :param timeout: seconds.
        :param from_start: search all that ever came instead.
        :raise WaitTimeout: when nothing matches in time.
        :raise GuestStopped: when the guest ends, or its kernel panics, without having shown it.
        :raise GuestError: when the domain has no console, or it is closed.
        """
        compiled = re.compile(pattern, re.MULTILINE) if isinstance(pattern, str) else pattern
        awaited = f"{compiled.pattern!r} on the console"
        if self._reader is None:
            self._opened()

        def look() -> re.Match[str] | None:
            found = compiled.search(self._transcript.text, 0 if from_start else self._position)
            if found is None and self._ended and self._watch.dead() is None:
                raise self._watch.gone(awaited, "closed its console")
            return found

        found = self._watch.until(awaited, look, Deadline(timeout))
        self._position = found.end()
        return found

    def send(self, text: str | bytes) -> None:
        """Type TEXT, as it is.

        :raise GuestError: when the domain has no console, or it is closed.
        :raise libvirtError: when it cannot be written.
        """
        data = text.encode() if isinstance(text, str) else bytes(text)
        stream = self._opened()
        while data:
            data = data[stream.send(data) :]

    def sendline(self, line: str | bytes = "") -> None:
        """Type LINE and the return key, as `send`."""
        self.send((line.encode() if isinstance(line, str) else bytes(line)) + b"\n")
