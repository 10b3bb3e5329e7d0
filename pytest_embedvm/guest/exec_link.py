"""One connection to the guest's server for commands, which is always read, and what came of one command."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from typing import Final

from pytest_embedvm import libvirt
from pytest_embedvm.guest.errors import WaitTimeout
from pytest_embedvm.guest.exec_wire import Frame, Frames, Garbled, Kind
from pytest_embedvm.guest.wait import Watch, if_connected

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: qemu-ga: GUEST_EXEC_MAX_OUTPUT, so much of each output is kept
OUTPUT_BYTES: Final = 16 * 1024 * 1024
_READ_BYTES: Final = 65536
_CLOSE_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a command ended: with `returncode`, or with `error`, an errno, because it could not be started.

    Neither is there when it did not end in time, as `timeout` says.
    """

    stdout: bytes
    stderr: bytes
    truncated: bool
    returncode: int | None
    error: int | None
    timeout: WaitTimeout | None


class _Output:
    """What has come and was not taken away."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.truncated = False

    def add(self, data: bytes) -> None:
        room = OUTPUT_BYTES - len(self.data)
        self.truncated |= len(data) > room
        self.data += data[:room]


class _Command:
    def __init__(self, number: int, *, streamed: bool) -> None:
        self.number = number
        #: Whether somebody takes away what it writes, as it comes.
        self.streamed = streamed
        self.outputs = {Kind.STDOUT: _Output(), Kind.STDERR: _Output()}
        #: Its return code, or why it could not be started, by the kind of the frame that said so.
        self.end: dict[Kind, int] = {}

    def take(self, frame: Frame) -> None:
        if self.end:
            return
        if frame.kind in self.outputs:
            self.outputs[frame.kind].add(frame.data)
        elif frame.kind is Kind.FAILED:
            self.end[Kind.FAILED] = frame.value
        elif frame.kind is Kind.EXITED:
            try:
                self.end[Kind.EXITED] = os.waitstatus_to_exitcode(frame.value)
            except ValueError:
                raise Garbled from None

    @property
    def is_full(self) -> bool:
        return self.streamed and len(self.outputs[Kind.STDOUT].data) > OUTPUT_BYTES // 2

    def outcome(self, timeout: WaitTimeout | None) -> Outcome:
        stdout, stderr = self.outputs[Kind.STDOUT], self.outputs[Kind.STDERR]
        return Outcome(
            bytes(stdout.data), bytes(stderr.data), stdout.truncated or stderr.truncated,
            self.end.get(Kind.EXITED), self.end.get(Kind.FAILED), timeout,
        )  # fmt: skip


class Link:
    """STREAM, to which the exec channel is open. A thread reads it until it ends; the guest never waits for us."""

    def __init__(self, stream: libvirt.virStream, watch: Watch) -> None:
        self._stream = stream
        self._watch = watch
        self._frames = Frames()
        self._command: _Command | None = None
        #: Whether it has ended, or the guest sent what nobody understands.
        self.broken = False
        #: The guest's resets when it was last brought in step.
        self.resets = watch.resets
        self._reader = threading.Thread(target=self._read, name="embedvm-exec", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while not self.broken:
            try:
                data = self._stream.recv(_READ_BYTES)
            except libvirt.libvirtError:
                data = b""  # the stream was aborted, or its domain is gone
            with self._watch.changed:
                self._take(data if isinstance(data, bytes) else b"")
                self._watch.changed.notify_all()
                # Who takes it away writes it to a file, and comes or ends.
                self._watch.changed.wait_for(lambda: self._command is None or not self._command.is_full)

    def _take(self, data: bytes) -> None:
        self.broken = not data
        try:
            for frame in self._frames.feed(data):
                if frame.kind is Kind.HELLO:
                    self._frames.lose()  # another server than the one that was asked
                elif self._command is not None and self._command.number == frame.number:
                    self._command.take(frame)
        except Garbled:
            self.broken = True

    @property
    def in_step(self) -> bool:
        """Whether the server answers, and nothing of the past is on its way any more."""
        return self._frames.in_step and not self.broken

    def expect(self, token: bytes) -> None:
        """A SYNC with TOKEN goes out next."""
        with self._watch.changed:
            self._frames.expect(token)
            self.resets = self._watch.resets

    def begin(self, number: int, *, streamed: bool) -> None:
        """What comes from now on belongs to the command NUMBER; if STREAMED, who waits for it has to `take` that."""
        with self._watch.changed:
            self._command = _Command(number, streamed=streamed)

    def take(self) -> bytes:
        """What it has written to its standard output and nobody took."""
        with self._watch.changed:
            if self._command is None:
                return b""
            output = self._command.outputs[Kind.STDOUT]
            data, output.data = bytes(output.data), bytearray()
            self._watch.changed.notify_all()
            return data

    @property
    def has_output(self) -> bool:
        """Whether there is any."""
        return self._command is not None and bool(self._command.outputs[Kind.STDOUT].data)

    @property
    def ended(self) -> bool:
        """Whether the command has."""
        return self._command is not None and bool(self._command.end)

    def outcome(self, timeout: WaitTimeout | None) -> Outcome:
        """What has come of the command."""
        with self._watch.changed:
            return (self._command or _Command(0, streamed=False)).outcome(timeout)

    def end(self) -> None:
        """No command runs any more; one that did not end is forgotten by the next SYNC."""
        with self._watch.changed:
            if not self.ended:
                self._frames.lose()
            self._command = None
            self._watch.changed.notify_all()

    def send(self, data: bytes) -> None:
        """Send DATA, waiting while the guest does not read more than a little.

        :raise libvirtError: when the stream has ended.
        """
        while data:
            data = data[self._stream.send(data) :]

    def close(self) -> None:
        """Hang up."""
        with if_connected():
            self._stream.abort()
        self._reader.join(_CLOSE_TIMEOUT_S)
