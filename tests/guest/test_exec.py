"""The exec channel from the host's side: what the guest's server, a bad one or none may do to it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM, CommandTimeout, GuestStopped, OutputTruncated, exec_channel, exec_link
from pytest_embedvm.guest.errors import AgentAbsent, AgentError
from pytest_embedvm.guest.exec_wire import PIECE, Frame, Frames, Garbled, Kind
from tests.fakes.guest import SERVED, FakeDomain, absent
from tests.guest.conftest import vm_of


def header(kind: bytes, number: int, size: int) -> bytes:
    return kind + number.to_bytes(4, "little") + size.to_bytes(4, "little")


def answer(kind: bytes, number: int, data: bytes) -> bytes:
    """A frame as the guest sends it."""
    return header(kind, number, len(data)) + data


TOKEN = bytes(range(16))


@pytest.fixture
def frames() -> Frames:
    frames = Frames()
    frames.expect(TOKEN)
    return frames


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_frames_come_in_pieces(frames: Frames, size: int) -> None:
    data = b"S\0\0 noise" + answer(b"S", 0, TOKEN) + answer(b"O", 3, b"a" * 500) + answer(b"X", 3, b"\1\0\0\0")
    came = [f for start in range(0, len(data), size) for f in frames.feed(data[start : start + size])]
    assert came == [Frame(Kind.STDOUT, 3, b"a" * 500), Frame(Kind.EXITED, 3, b"\1\0\0\0")]
    assert came[1].value == 1


def test_noise_takes_no_memory(frames: Frames) -> None:
    for _ in range(100):
        assert list(frames.feed(os.urandom(10_000))) == []
    assert len(frames._data) < 100


@pytest.mark.parametrize("data", [header(b"?", 0, 0), header(b"O", 0, PIECE + 1), b"\xff" * 9])
def test_what_is_no_frame(frames: Frames, data: bytes) -> None:
    with pytest.raises(Garbled):
        list(frames.feed(answer(b"S", 0, TOKEN) + data))


@pytest.mark.parametrize("data", [b"", b"\1\0\0", b"\0\0\1\0", b"\xff\xff\xff\xff"])
def test_what_is_no_status(data: bytes) -> None:
    with pytest.raises(Garbled):
        _ = Frame(Kind.EXITED, 1, data).value


Server = Callable[[socket.socket], None]
Bad = Callable[[Server], VM]


@pytest.fixture
def bad(domain: FakeDomain, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bad]:
    """A VM whose server does what the test says, once it was brought in step."""
    monkeypatch.setattr(exec_channel, "AFTERMATH_S", 0.05)
    with ExitStack() as lines, ExitStack() as vms:

        def vm(server: Server) -> VM:
            domain.xml = SERVED

            def line() -> socket.socket:
                ours, theirs = socket.socketpair()
                lines.enter_context(ours)
                lines.enter_context(theirs)
                thread = threading.Thread(target=server, args=(theirs,))
                thread.start()
                lines.callback(thread.join)
                return ours

            domain.line = line
            return vms.enter_context(vm_of(domain))

        yield vm


def synchronized(line: socket.socket) -> None:
    line.sendall(line.recv(100)[:-1])


def commanded(line: socket.socket) -> None:
    """Brought in step, and given a command, the first."""
    synchronized(line)
    while b"R" + (1).to_bytes(4, "little") not in line.recv(65536):
        pass


@pytest.mark.parametrize(
    "data", [b"?" * 9, answer(b"X", 1, b"\x7f\x13\0\0"), answer(b"X", 1, b"12345"), answer(b"F", 1, b"\0\0\0\1")]
)
def test_a_server_that_talks_nonsense_is_left(bad: Bad, data: bytes) -> None:
    def server(line: socket.socket) -> None:
        commanded(line)
        line.sendall(data)

    with pytest.raises(AgentAbsent, match="the guest's server for commands went away"):
        bad(server).run("true")


@pytest.mark.parametrize("last", [b"", answer(b"H", 0, b"")])
def test_a_server_that_dies_is_noticed(bad: Bad, last: bytes) -> None:
    def server(line: socket.socket) -> None:
        commanded(line)
        line.sendall(last)
        if not last:
            line.shutdown(socket.SHUT_RDWR)

    with pytest.raises(AgentAbsent, match="the guest's server for commands went away"):
        bad(server).run("true")


def test_what_belongs_to_another_command_is_not_taken(bad: Bad) -> None:
    def server(line: socket.socket) -> None:
        commanded(line)
        line.sendall(answer(b"O", 7, b"other") + answer(b"X", 7, bytes(4)))
        line.sendall(answer(b"O", 1, b"own") + answer(b"X", 1, bytes(4)) + answer(b"O", 1, b"late"))

    assert bad(server).run("true").stdout == b"own"


def test_a_flood_takes_no_memory(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_link, "OUTPUT_BYTES", 100_000)

    def server(line: socket.socket) -> None:
        commanded(line)
        for _ in range(100):
            line.sendall(answer(b"O", 1, bytes(PIECE)))
        line.sendall(answer(b"X", 1, bytes(4)))

    with pytest.raises(OutputTruncated) as caught:
        bad(server).run("true")
    assert caught.value.stdout == bytes(100_000)


def test_a_server_that_is_silent_is_asked_no_more(
    bad: Bad, domain: FakeDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exec_channel, "SYNC_TIMEOUT_S", 0.05)
    monkeypatch.setattr(exec_channel, "SECOND_SYNC_TIMEOUT_S", 0.05)
    asked: list[socket.socket] = []
    vm = bad(asked.append)
    for _ in range(2):
        with pytest.raises(AgentError, match="is not connected"):
            vm.run("true")
    assert len(asked) == 1
    assert domain.commands == ["guest-exec"] * 2


def test_a_command_whose_end_never_comes(bad: Bad, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_channel, "KILL_TIMEOUT_S", 0.05)

    def server(line: socket.socket) -> None:
        commanded(line)
        line.sendall(answer(b"O", 1, b"begun"))

    with pytest.raises(CommandTimeout) as caught:
        bad(server).run("true", timeout=0.3)
    assert caught.value.stdout == b"begun"


def test_input_that_nobody_takes(bad: Bad) -> None:
    with pytest.raises(TimeoutError):
        bad(synchronized).run("true", input=bytes(5_000_000), timeout=0.5)


def test_a_reset_is_noticed(bad: Bad, domain: FakeDomain) -> None:
    def server(line: socket.socket) -> None:
        commanded(line)
        domain.reset()

    with pytest.raises(GuestStopped, match="was reset while the end of true"):
        bad(server).run(["true"])


def test_the_end_is_noticed(bad: Bad, domain: FakeDomain) -> None:
    def server(line: socket.socket) -> None:
        commanded(line)
        domain.stop(libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)

    with pytest.raises(GuestStopped, match="was destroyed while the end of true"):
        bad(server).run(["true"])


def test_a_port_that_the_guest_has_not_opened_is_not_used(by_channel: VM, domain: FakeDomain) -> None:
    domain.xml = SERVED.replace("'connected'", "'disconnected'")
    assert by_channel.run("echo agent").text == "agent\n"
    assert domain.commands[0] == "guest-exec"
    domain.xml = SERVED
    domain.commands.clear()
    assert by_channel.run("echo channel").text == "channel\n"
    assert domain.commands == []


def test_after_a_reset_it_is_brought_in_step_again(by_channel: VM, domain: FakeDomain) -> None:
    for _ in range(3):
        assert by_channel.run("echo hi").text == "hi\n"
        domain.reset()
    assert domain.commands == []


def test_a_server_that_was_killed_is_connected_anew(by_channel: VM, domain: FakeDomain) -> None:
    with pytest.raises(AgentAbsent):
        by_channel.run("kill -9 $PPID; sleep 5")
    assert by_channel.run("echo again").text == "again\n"
    assert domain.commands == []


def test_after_a_timeout_it_works_on(by_channel: VM, domain: FakeDomain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exec_channel, "KILL_TIMEOUT_S", 0.2)
    with pytest.raises(CommandTimeout) as caught:  # an orphan that keeps the output open
        by_channel.run("(sleep 1000 & echo $!); exec sleep 1000", timeout=0.3)
    orphan = int(caught.value.stdout)
    assert by_channel.run("echo again").text == "again\n"
    os.kill(orphan, signal.SIGKILL)
    assert domain.commands == []


def test_two_threads_at_once(by_channel: VM, domain: FakeDomain, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    results: list[str] = []
    waiting = threading.Thread(target=lambda: results.append(by_channel.run(["cat", str(fifo)]).text))
    waiting.start()
    with fifo.open("w") as writer:  # which waits for the reader
        assert by_channel.run("echo second").text == "second\n"
        assert domain.commands[0] == "guest-exec"
        writer.write("first")
    waiting.join()
    assert results == ["first"]


def test_the_reader_ends_with_the_vm(by_channel: VM) -> None:
    others = set(threading.enumerate())
    by_channel.run("true")
    (reader,) = (t for t in threading.enumerate() if t.name == "embedvm-exec" and t not in others)
    by_channel.close()
    assert not reader.is_alive()


def test_a_domain_that_is_gone_is_the_agents_to_explain(by_channel: VM, domain: FakeDomain) -> None:
    domain.XMLDesc = lambda: absent("")  # type: ignore[method-assign]
    domain.agent = absent
    with pytest.raises(AgentError, match="is not connected"):
        by_channel.run("true")
