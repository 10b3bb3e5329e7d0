"""Files of the guest, over its exec channel or its agent: no network and no shared directory is needed."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from pytest_embedvm.guest import archive, transfer
from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.errors import CommandFailed, GuestFileError
from pytest_embedvm.guest.exec_channel import ExecChannel
from pytest_embedvm.guest.shell import Command, Shell
from pytest_embedvm.guest.wait import Deadline

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: An emulated guest's agent takes 4 MB/s and gives 16.
TIMEOUT_S: Final = 120.0

#: The agent itself would make a new file that all may write.
_PREPARE: Final = 'umask 022; : >>"$1" && if [ -n "$2" ]; then chmod "$2" "$1"; fi'
_FILL: Final = 'exec cat >"$1"'
_APPEND: Final = 'exec cat >>"$1"'

#: The guest holds so much of a file that comes over the exec channel, besides the file itself.
_PIECE_BYTES: Final = 4 * 1024 * 1024


class Files:
    """The files of one guest."""

    def __init__(self, channel: ExecChannel, agent: Agent, shell: Shell) -> None:
        self._channel = channel
        self._agent = agent
        self._shell = shell

    def read_bytes(self, path: str, deadline: Deadline) -> bytes:
        sink = io.BytesIO()
        self._read_into(path, sink, deadline)
        return sink.getvalue()

    def _read_into(self, path: str, sink: IO[bytes], deadline: Deadline) -> None:
        outcome = self._channel.run(("cat", "--", path), None, f"the content of {path}", deadline, sink)
        if outcome is None:
            transfer.read_into(self._agent, path, sink, deadline)
        elif outcome.timeout is not None:
            raise outcome.timeout
        elif outcome.returncode != 0:
            raise GuestFileError(path, _words(outcome.stderr, "cat: ") or "it cannot be read")

    def write_from(self, path: str, source: IO[bytes], mode: int | None, deadline: Deadline) -> None:
        """Make the file PATH hold what SOURCE does; it has its MODE before it has the bytes."""
        word = "" if mode is None else f"{stat.S_IMODE(mode):o}"
        if self._channel.is_ready(deadline):
            self._fill(path, f"{_PREPARE} && {_FILL}", word, source, deadline)
        else:
            self._command(path, ("/bin/sh", "-c", _PREPARE, "sh", path, word), deadline)
            transfer.write_from(self._agent, path, source, deadline)

    def _fill(self, path: str, script: str, word: str, source: IO[bytes], deadline: Deadline) -> None:
        """Have SCRIPT write the beginning of SOURCE to PATH, and the rest follow."""
        data = source.read(_PIECE_BYTES)
        while True:
            self._command(path, ("/bin/sh", "-c", script, "sh", path, word), deadline, data)
            data = source.read(_PIECE_BYTES)
            if not data:
                return
            script = _APPEND

    def _write_temporary(self, path: str, source: IO[bytes], deadline: Deadline) -> None:
        if self._channel.is_ready(deadline):
            self._fill(path, _FILL, "", source, deadline)
        else:
            transfer.write_from(self._agent, path, source, deadline)

    def push(self, local: Path, remote: str, deadline: Deadline) -> None:
        """:raise OSError: when LOCAL cannot be read."""
        if local.is_dir():
            self._push_directory(local, remote, deadline)
            return
        with local.open("rb") as source:
            mode = stat.S_IMODE(os.fstat(source.fileno()).st_mode)
            self.write_from(remote, source, mode, deadline)

    def _push_directory(self, local: Path, remote: str, deadline: Deadline) -> None:
        with tempfile.TemporaryFile() as packed:
            archive.pack(local, packed)
            self.unpack(packed, remote, deadline)

    def unpack(self, packed: IO[bytes], remote: str, deadline: Deadline, *, options: str = "-xpf") -> None:
        """Put what the tar file PACKED holds into the directory REMOTE, which is made; OPTIONS are tar's."""
        with self._temporary(deadline) as there:
            packed.seek(0)
            self._write_temporary(there, packed, deadline)
            script = 'mkdir -p "$1" && tar "$3" "$2" -C "$1"'
            self._command(remote, ("/bin/sh", "-c", script, "sh", remote, there, options), deadline)

    def pull(self, remote: str, local: Path, deadline: Deadline) -> None:
        """:raise OSError: when LOCAL cannot be written."""
        raw = int(self._command(remote, ("stat", "-L", "-c", "%f", remote), deadline), 16)
        if stat.S_ISDIR(raw):
            self._pull_directory(remote, local, deadline)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(local, flags, stat.S_IMODE(raw) & 0o700), "wb") as sink:
            self._read_into(remote, sink, deadline)
            os.fchmod(sink.fileno(), stat.S_IMODE(raw))

    def _pull_directory(self, remote: str, local: Path, deadline: Deadline) -> None:
        with tempfile.TemporaryFile() as packed, self._temporary(deadline) as there:
            self._command(remote, ("tar", "-cf", there, "-C", remote, "."), deadline)
            self._read_into(there, packed, deadline)
            packed.seek(0)
            archive.unpack(packed, local)

    @contextlib.contextmanager
    def _temporary(self, deadline: Deadline) -> Iterator[str]:
        """A name for a file in the guest, which is removed if the body came to its end."""
        path = transfer.temporary_path()
        yield path
        self._command(path, ("rm", "-f", path), deadline)

    def _command(self, path: str, argv: Sequence[str], deadline: Deadline, data: bytes | None = None) -> str:
        try:
            return self._shell.run(Command(tuple(argv), data), deadline).text
        except CommandFailed as error:
            raise GuestFileError(path, _words(error.stderr, "sh: ") or str(error)) from error


def _words(stderr: bytes, program: str) -> str:
    return stderr.decode(errors="replace").strip().removeprefix(program)
