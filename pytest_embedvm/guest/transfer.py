"""A file's bytes into the guest and out of it, in pieces that neither side has to hold whole."""

from __future__ import annotations

import base64
import contextlib
import uuid
from collections.abc import Iterator
from typing import IO, Any, Final

from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.errors import AgentAbsent, AgentError, GuestFileError
from pytest_embedvm.guest.wait import Deadline

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: The agent zeroes a buffer of this size before it reads, which a small file should not pay for.
FIRST_READ_BYTES: Final = 64 * 1024
#: QEMU: guest-file-read gives up to 48 MiB; five copies of a piece exist in the guest at a time.
PIECE_BYTES: Final = 1024 * 1024


class _File:
    """A file that is open in the guest."""

    def __init__(self, agent: Agent, path: str, mode: str, deadline: Deadline) -> None:
        self._agent = agent
        self._path = path
        self._deadline = deadline
        self._handle: int = self._ask("open", path=path, mode=mode)

    def _ask(self, verb: str, **arguments: Any) -> Any:
        try:
            return self._agent.call(f"guest-file-{verb}", self._deadline, **arguments)
        except AgentAbsent:
            raise
        except AgentError as error:
            raise GuestFileError(self._path, error.detail) from error

    def read(self, count: int) -> tuple[bytes, bool]:
        """Up to COUNT bytes, and whether that was the end."""
        answer = self._ask("read", handle=self._handle, count=count)
        return base64.b64decode(answer["buf-b64"]), bool(answer["eof"])

    def write(self, data: bytes) -> None:
        encoded = base64.b64encode(data).decode()
        count = self._ask("write", handle=self._handle, buf_b64=encoded)["count"]
        if count != len(data):
            raise GuestFileError(self._path, f"the guest took {count} of {len(data)} bytes")

    def close(self) -> None:
        self._ask("close", handle=self._handle)


@contextlib.contextmanager
def _opened(agent: Agent, path: str, mode: str, deadline: Deadline) -> Iterator[_File]:
    file = _File(agent, path, mode, deadline)
    try:
        yield file
    except (GuestFileError, OSError):
        file.close()
        raise
    file.close()


def read_into(agent: Agent, path: str, sink: IO[bytes], deadline: Deadline) -> None:
    """Write what the guest's file PATH holds to SINK.

    :raise GuestFileError: when the guest cannot read it.
    """
    count, end = FIRST_READ_BYTES, False
    with _opened(agent, path, "r", deadline) as file:
        while not end:
            data, end = file.read(count)
            sink.write(data)
            count = PIECE_BYTES


def write_from(agent: Agent, path: str, source: IO[bytes], deadline: Deadline) -> None:
    """Replace what the guest's file PATH holds by what SOURCE does.

    :raise GuestFileError: when the guest cannot write it.
    """
    with _opened(agent, path, "w", deadline) as file:
        while data := source.read(PIECE_BYTES):
            file.write(data)


def temporary_path() -> str:
    """A name for a file in the guest that nobody else has."""
    return f"/tmp/.embedvm-{uuid.uuid4()}"  # noqa: S108 - nobody can guess it
