"""A console joined to the standard output: nothing is lost at its end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm.cli import forwarding
from pytest_embedvm.cli.forwarding import Forwarding


class FakeLink:
    """A console that says its pieces and ends."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = list(pieces)
        self.closed = False

    async def read(self, size: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    async def write(self, data: bytes) -> int:
        return len(data)

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The reading end of what is the standard output here; the standard input is at its end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb"), Path(os.devnull).open("rb") as nothing:
        monkeypatch.setattr(forwarding, "STDOUT", writing)
        monkeypatch.setattr(forwarding, "STDIN", nothing.fileno())
        yield reading


def forward(link: FakeLink, log: Path | None, written: bytes = b"") -> None:
    async def main() -> None:
        async with Forwarding(link, log) as joined:  # type: ignore[arg-type]
            if log:
                with log.open("ab") as file:
                    file.write(written)
            await joined.drain()

    asyncio.run(main())
    assert link.closed


def test_what_was_lost_with_the_terminal_comes_from_the_log(output: int, tmp_path: Path) -> None:
    log = tmp_path / "serial0.log"
    log.write_bytes(b"of an earlier run")
    forward(FakeLink(b"a", b"bc"), log, b"abcdef")
    assert os.read(output, 100) == b"abcdef"


def test_what_was_not_lost_is_shown_once(output: int, tmp_path: Path) -> None:
    log = tmp_path / "serial0.log"
    log.write_bytes(b"")
    forward(FakeLink(b"abc"), log, b"abc")
    os.write(forwarding.STDOUT, b".")
    assert os.read(output, 100) == b"abc."


def test_without_a_log_what_came_is_all(output: int) -> None:
    forward(FakeLink(b"abc"), None)
    assert os.read(output, 100) == b"abc"
