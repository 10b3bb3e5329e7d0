"""The guest's own programs: the language of their sources, and the server for commands, run on this host."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm.guest.exec_wire import PADDING, PIECE, Frame, Frames, Kind, frame, pieces
from pytest_embedvm.guest.image.native.compiler import SourceError, compiled
from tests.fakes.exec_server import host_server, served

here = pytest.mark.skipif(platform.machine() != "x86_64", reason="the programs are made for x86-64")

ENOENT, E2BIG, EACCES = 2, 7, 13


def run(tmp_path: Path, source: str, *words: str) -> tuple[int, bytes]:
    """The exit status of the program SOURCE, and what it wrote."""
    (tmp_path / "source").write_text(source)
    program = tmp_path / "program"
    program.write_bytes(compiled(tmp_path / "source"))
    program.chmod(0o755)
    done = subprocess.run([program, *words], capture_output=True, timeout=30, check=False)
    return done.returncode, done.stdout


@here
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("7", 7), ("2 + 3 * 4", 14), ("(9 - 2) // 2 + 9 % 5", 7), ("12 & 10 | 1 ^ 3", 10), ("1 << 4 >> 2", 4),
        ("-3 + 10", 7), ("~0 + 6", 5), ("(3 < 4) + (4 <= 4) + (5 > 4) + (4 >= 5) + (1 == 1) + (1 != 1)", 4),
        ("-1 < 0", 1), ("not 0", 1), ("not 5", 0), ("0 or 4", 4), ("3 and 0 or 6", 6), ("1 and 2 and 9", 9),
        ("twice(twice(5)) + difference(9, 2)", 27), ("SIX * 2", 12), ("long[PLACE] + word[PLACE] + byte[PLACE + 1]", 2),
        ("byte[b'abc' + 1] - 90", 8), ("5000000000 // 1000000000", 5), ("count(10)", 25),
    ],
)  # fmt: skip
def test_values(tmp_path: Path, expression: str, value: int) -> None:
    source = f'''
"""A program."""
SIX = 6
PLACE = room(SIX + 10)

def twice(n):
    return n + n

def difference(a, b):
    return a - b

def count(n):
    """The sum of the odd numbers below N."""
    total = 0
    at = 0
    while 1:
        at += 1
        if at > n:
            break
        elif at % 2 == 0:
            continue
        else:
            total += at
    return total

def main(stack):
    long[PLACE] = 257
    half[PLACE] = 1
    return {expression}
'''
    assert run(tmp_path, source) == (value, b"")


@here
def test_words_bytes_and_the_kernel(tmp_path: Path) -> None:
    source = """
buffer = room(16)
def main(stack):
    copy(buffer, long[stack + 16], 5)
    copy(buffer + 5, b" you", 4)
    syscall(1, 1, buffer, 9)
    return long[stack]
"""
    assert run(tmp_path, source, "hello") == (2, b"hello you")


@pytest.mark.parametrize(
    "source",
    [
        "import os", "def main(a):\n    x = 'text'", "def main(a):\n    return nobody", "def main(a):\n    return f(1)",
        "def main(a):\n    return 1 / 2", "def main(a):\n    for x in a: pass", "x = y", "def other(a):\n    return 1",
        "def main(a):\n    break", "def main(a):\n    return 1 < 2 < 3",
    ],
)  # fmt: skip
def test_what_is_not_in_the_language(tmp_path: Path, source: str) -> None:
    (tmp_path / "source").write_text(source)
    with pytest.raises(SourceError, match="is not in the language"):
        compiled(tmp_path / "source")


class Peer:
    """The host's end of a channel, to the letter."""

    def __init__(self, line: socket.socket) -> None:
        line.settimeout(30)
        self.line = line
        self.frames = Frames()
        self._came: list[Frame] = []

    def send(self, *data: bytes) -> None:
        self.line.sendall(b"".join(data))

    def synchronize(self, before: bytes = b"") -> None:
        token = os.urandom(16)
        self.frames.expect(token)
        self.send(before, frame(Kind.SYNC, 0, token))
        while not self.frames.in_step:
            self._came += self.frames.feed(self.line.recv(100))

    def next(self) -> Frame:
        while not self._came:
            data = self.line.recv(65536)
            assert data, "the server has gone"
            self._came += self.frames.feed(data)
        return self._came.pop(0)

    def order(self, number: int, *words: str, data: bytes = b"") -> None:
        text = b"".join(word.encode() + b"\0" for word in words)
        self.send(pieces(Kind.WORDS, number, text), pieces(Kind.INPUT, number, data), frame(Kind.RUN, number))

    def outcome(self, number: int) -> tuple[Kind, int, bytes, bytes]:
        outputs = {Kind.STDOUT: b"", Kind.STDERR: b""}
        while True:
            came = self.next()
            assert came.number == number
            if came.kind not in outputs:
                return came.kind, came.value, outputs[Kind.STDOUT], outputs[Kind.STDERR]
            outputs[came.kind] += came.data

    def run(self, *words: str, data: bytes = b"") -> tuple[Kind, int, bytes, bytes]:
        self.order(5, *words, data=data)
        return self.outcome(5)


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Callable[[], socket.socket]]:
    with served(host_server(tmp_path)) as connect:
        yield connect


@pytest.fixture
def peer(connect: Callable[[], socket.socket]) -> Peer:
    peer = Peer(connect())
    peer.synchronize()
    return peer


def test_a_command(peer: Peer) -> None:
    outcome = peer.run("sh", "-c", "cat; echo err >&2; exit 3", data=b"in\0\xff")
    assert outcome == (Kind.EXITED, 3 << 8, b"in\0\xff", b"err\n")
    assert peer.run("sh", "-c", "kill -15 $$") == (Kind.EXITED, 15, b"", b"")


def test_every_byte_of_a_word(peer: Peer) -> None:
    word = "".join(map(chr, range(1, 256)))
    assert peer.run("printf", "%s", word)[2] == word.encode()


def test_what_cannot_be_started(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "nobodys").write_text("echo")
    assert peer.run("/no/such") == (Kind.FAILED, ENOENT, b"", b"")
    assert peer.run("no-such") == (Kind.FAILED, ENOENT, b"", b"")
    assert peer.run("") == (Kind.FAILED, ENOENT, b"", b"")
    assert peer.run(str(tmp_path / "nobodys")) == (Kind.FAILED, EACCES, b"", b"")
    assert peer.run("true", "x" * 200_000) == (Kind.FAILED, E2BIG, b"", b"")
    assert peer.run("true", *["x" * 30_000] * 80) == (Kind.FAILED, E2BIG, b"", b"")
    assert peer.run("true", *[""] * 300_000) == (Kind.FAILED, E2BIG, b"", b"")
    assert peer.run("echo", *["x"] * 10_000)[2] == b"x " * 9_999 + b"x\n"


def test_a_script_that_does_not_say_whose(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "script").write_text('echo "$0 $1"')
    (tmp_path / "script").chmod(0o755)
    assert peer.run(str(tmp_path / "script"), "a b")[2] == f"{tmp_path}/script a b\n".encode()


def test_its_descriptors_and_signals_are_its_own(peer: Peer) -> None:
    assert peer.run("ls", "/proc/self/fd")[2].split() == [b"0", b"1", b"2", b"3"]
    masks = peer.run("grep", "-E", "Sig(Blk|Ign)", "/proc/self/status")[2].split()
    assert [int(mask, 16) for mask in masks[1::2]] == [0, 0]


def test_a_child_that_keeps_an_output_is_waited_for(peer: Peer) -> None:
    assert peer.run("sh", "-c", "(sleep 0.3; echo late) & echo now")[2] == b"now\nlate\n"
    peer.order(1, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
    kind, status, out, _ = peer.outcome(1)
    assert (kind, status) == (Kind.EXITED, 0)
    os.kill(int(out), 9)


def test_a_kill_takes_descendants_along(peer: Peer) -> None:
    peer.order(1, "sh", "-c", "sleep 1000 & echo $!; (sleep 1000; true)")
    child = peer.next().data
    peer.send(frame(Kind.KILL, 1))
    assert peer.outcome(1)[:2] == (Kind.EXITED, 9)
    assert not Path(f"/proc/{child.decode().strip()}/exe").exists()


def test_nothing_counts_before_a_synchronization(connect: Callable[[], socket.socket]) -> None:
    peer = Peer(connect())
    peer.order(1, "echo", "stale")
    peer.synchronize()
    assert peer.run("echo", "new")[2] == b"new\n"


def test_it_says_that_it_has_started(connect: Callable[[], socket.socket]) -> None:
    assert connect().recv(9) == b"H" + bytes(8)


@pytest.mark.parametrize(
    "torn",
    [
        pieces(Kind.WORDS, 1, b"touch\0stale\0")[:-1], frame(Kind.RUN, 1)[:-1], frame(Kind.SYNC, 0, bytes(16))[:5],
        frame(Kind.INPUT, 1, bytes(PIECE))[:20000], b"R", b"garbage of all kinds\n" * 1000, bytes(100_000),
    ],
)  # fmt: skip
def test_half_a_message_is_none(peer: Peer, tmp_path: Path, torn: bytes) -> None:
    """Whoever was here before may have been torn away in the middle of a word."""
    peer.send(pieces(Kind.WORDS, 1, b"touch\0stale\0"))
    peer.synchronize(torn + PADDING)
    assert peer.run("echo", "new")[2] == b"new\n"
    assert not (tmp_path / "stale").exists()


def test_a_synchronization_forgets_what_runs(peer: Peer) -> None:
    peer.order(1, "sh", "-c", "echo begun; sleep 0.2; echo; touch on")
    assert peer.next().data == b"begun\n"
    peer.synchronize()
    assert peer.run("echo", "new")[2] == b"new\n"


def test_much_of_everything(peer: Peer) -> None:
    data = os.urandom(5_000_000)
    assert peer.run("cat", data=data)[2] == data


def test_it_waits_without_working(peer: Peer) -> None:
    pid = int(peer.run("sh", "-c", "echo $PPID")[2])
    peer.order(1, "sleep", "0.5")
    peer.outcome(1)

    def cpu() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = cpu()
    time.sleep(0.3)
    assert cpu() - before < 10
