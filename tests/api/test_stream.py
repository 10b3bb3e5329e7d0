from __future__ import annotations

import threading

import pytest

from pytest_embedvm import libvirt
from tests.api.test_connect import failure
from tests.fakes.driver import FakeDriver


@pytest.fixture
def domain(conn: libvirt.virConnect) -> libvirt.virDomain:
    return conn.createXML("a")


@pytest.fixture
def stream(conn: libvirt.virConnect, domain: libvirt.virDomain) -> libvirt.virStream:
    """A console that sends back what it is sent."""
    opened = conn.newStream()
    assert domain.openConsole(None, opened) == 0
    return opened


def test_console(stream: libvirt.virStream, conn: libvirt.virConnect, driver: FakeDriver) -> None:
    assert stream.connect() is conn
    assert driver.all[0].orders[-1] == ("open_console", None, False)
    assert stream.send(b"hello") == 5
    assert [stream.recv(2), stream.recv(100)] == [b"he", b"llo"]
    assert stream.finish() == 0
    assert driver.all[0].links[0].closed


def test_channel(conn: libvirt.virConnect, domain: libvirt.virDomain, driver: FakeDriver) -> None:
    stream = conn.newStream()
    assert domain.openChannel("a", stream, libvirt.VIR_DOMAIN_CHANNEL_FORCE) == 0
    assert driver.all[0].orders[-1] == ("open_channel", "a", True)
    assert stream.send(b"hello") == 5
    assert stream.recv(100) == b"hello"
    assert failure(domain.openChannel, None, stream)[2] == "Requested operation is not valid: stream is already open"
    assert stream.abort() == 0
    domain.openChannel(None, stream)
    assert driver.all[0].orders[-1] == ("open_channel", None, False)


def test_the_end_of_a_console_is_empty(stream: libvirt.virStream, driver: FakeDriver) -> None:
    driver.all[0].links[0].queue.put_nowait(b"")
    assert stream.recv(1) == b""


def test_a_stream_that_does_not_block(conn: libvirt.virConnect, domain: libvirt.virDomain) -> None:
    stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.openConsole("serial0", stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
    assert stream.recv(10) == -2
    stream.send(b"abc")
    received = b""
    while len(received) < 3:
        piece = stream.recv(10)
        received += piece if isinstance(piece, bytes) else b""
    assert received == b"abc"
    assert stream.recv(10) == -2
    assert stream.abort() == 0


@pytest.mark.parametrize("name", ["recv", "send", "finish"])
def test_a_stream_with_nothing_behind_it(conn: libvirt.virConnect, name: str) -> None:
    arguments = {"recv": (1,), "send": (b"a",), "finish": ()}[name]
    assert failure(getattr(conn.newStream(), name), *arguments) == (
        libvirt.VIR_ERR_NO_SUPPORT,
        libvirt.VIR_FROM_STREAMS,
        f"this function is not supported by the connection driver: virStream{name.capitalize()}",
    )
    assert conn.newStream().abort() == 0


def test_a_console_needs_a_stream(domain: libvirt.virDomain) -> None:
    assert failure(domain.openConsole, None, None) == (
        libvirt.VIR_ERR_INVALID_STREAM,
        libvirt.VIR_FROM_STREAMS,
        "invalid stream pointer in virDomainOpenConsole",
    )


def test_a_channel_needs_a_stream_and_known_flags(domain: libvirt.virDomain) -> None:
    assert failure(domain.openChannel, None, None) == (
        libvirt.VIR_ERR_INVALID_STREAM,
        libvirt.VIR_FROM_STREAMS,
        "invalid stream pointer in virDomainOpenChannel",
    )
    assert failure(domain.openChannel, None, domain.connect().newStream(), 2) == (
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_FROM_QEMU,
        "unsupported flags (0x2) in function qemuDomainOpenChannel",
    )


def test_a_stream_is_opened_once(domain: libvirt.virDomain, stream: libvirt.virStream, driver: FakeDriver) -> None:
    assert failure(domain.openConsole, None, stream)[2] == "Requested operation is not valid: stream is already open"
    assert len(driver.all[0].links) == 1


def test_abort_wakes_who_waits(stream: libvirt.virStream) -> None:
    woken: list[object] = []

    def wait() -> None:
        started.set()
        try:
            woken.append(stream.recv(1))
        except libvirt.libvirtError as error:
            woken.append(error.get_error_code())

    started = threading.Event()
    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    started.wait(10)
    stream.abort()
    thread.join(10)
    # It may have come too late to wait at all.
    assert woken in ([libvirt.VIR_ERR_OPERATION_INVALID], [libvirt.VIR_ERR_NO_SUPPORT], [b""])


def test_receive_all(stream: libvirt.virStream, driver: FakeDriver) -> None:
    for piece in (b"a", b"b", b""):
        driver.all[0].links[0].queue.put_nowait(piece)
    received: list[tuple[object, ...]] = []
    stream.recvAll(lambda *arguments: received.append(arguments), "opaque")
    assert received == [(stream, b"a", "opaque"), (stream, b"b", "opaque")]


def test_send_all(stream: libvirt.virStream, driver: FakeDriver) -> None:
    pieces = iter([b"a", b"b", b""])
    asked: list[tuple[object, ...]] = []

    def handler(*arguments: object) -> bytes:
        asked.append(arguments)
        return next(pieces)

    stream.sendAll(handler, "opaque")
    assert [a[0] is stream and a[2] == "opaque" for a in asked] == [True] * 3
    assert [stream.recv(10), stream.recv(10)] == [b"a", b"b"]


def test_a_handler_that_refuses_aborts(stream: libvirt.virStream, driver: FakeDriver) -> None:
    stream.send(b"a")
    with pytest.raises(RuntimeError, match="recvAll handler returned -1"):
        stream.recvAll(lambda *_: -1, None)
    assert driver.all[0].links[0].closed


def test_a_handler_that_raises_aborts(stream: libvirt.virStream, driver: FakeDriver) -> None:
    def handler(*_: object) -> bytes:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        stream.sendAll(handler, None)
    assert driver.all[0].links[0].closed


@pytest.mark.parametrize("name", ["recvAll", "sendAll"])
def test_all_wants_a_stream_that_blocks(conn: libvirt.virConnect, domain: libvirt.virDomain, name: str) -> None:
    stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
    domain.openConsole(None, stream)
    assert (
        failure(getattr(stream, name), print, None)[2] == f"internal error: cannot use {name} with nonblocking stream"
    )
    stream.abort()
