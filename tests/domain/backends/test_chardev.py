"""Character devices: what QEMU is told of them, what is refused, and that the host's end is there."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.consoles import consoles, learn
from pytest_embedvm.domain.host import FileKind
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.parts import Connect, Descriptor, Listen
from tests.domain.describing import completed, options, running, written
from tests.fakes.host import EMULATOR, FakeHost

INTERNAL, CONFIG, XML = ErrorNumber.INTERNAL_ERROR, ErrorNumber.CONFIG_UNSUPPORTED, ErrorNumber.XML_ERROR
PORT = "<target type='isa-serial' port='0'><model name='isa-serial'/></target>"


def serial(kind: str, inside: str = "") -> str:
    return f"<serial type='{kind}'>{inside}</serial>"


@pytest.mark.parametrize(
    ("xml", "chardev"),
    [
        (serial("pty"), "pty,id=charserial0"),
        (serial("null"), "null,id=charserial0"),
        (serial("vc"), "vc,id=charserial0"),
        (serial("dev", "<source path='/dev/ttyS0'/>"), "serial,id=charserial0,path=/dev/ttyS0"),
        (serial("pipe", "<source path='/a,b'/>"), "pipe,id=charserial0,path=/a,,b"),
        (serial("file", "<source path='/f' append='on'/>"), "file,id=charserial0,path=/f,append=on"),
        (serial("file", "<source path='/f'/>"), "file,id=charserial0,path=/f"),
        (serial("unix", "<source mode='bind' path='/s'/>"), "socket,id=charserial0,fd=100,server=on,wait=off"),
        (serial("unix", "<source path='/s'/>"), "socket,id=charserial0,fd=100"),
        (
            serial("unix", "<source path='/s'><reconnect enabled='yes' timeout='9'/></source>"),
            "socket,id=charserial0,path=/s,reconnect=9",
        ),
        (
            serial("tcp", "<source mode='bind' host='127.0.0.1' service='2'/><protocol type='telnet'/>"),
            "socket,id=charserial0,host=127.0.0.1,port=2,telnet=on,server=on,wait=off",
        ),
        (serial("tcp", "<source host='::1' service='2' tls='no'/>"), "socket,id=charserial0,host=::1,port=2"),
        (
            serial("udp", "<source mode='bind' host='0.0.0.0' service='1'/><source host='h' service='2'/>"),
            "udp,id=charserial0,host=h,port=2,localaddr=0.0.0.0,localport=1",
        ),
        (serial("udp", "<source service='2'/>"), "udp,id=charserial0,host=,port=2,localaddr=,localport=0"),
    ],
)
def test_command_line(xml: str, chardev: str) -> None:
    assert options(completed(xml), "-chardev") == [f"{chardev},logfile=/R/console-log/d/serial0,logappend=on"]


def test_sockets_are_asked_for_by_path() -> None:
    domain = completed(serial("unix", "<source mode='bind' path='/a'/>") + serial("unix", "<source path='/b'/>"))
    assert launch(domain, FakeHost()).descriptors == [
        Descriptor("charserial0", Listen("/a")),
        Descriptor("charserial1", Connect("/b")),
    ]


def test_a_log_of_its_own_takes_the_place_of_ours() -> None:
    assert options(completed(serial("pty", "<log file='/l,1' append='off'/>")), "-chardev") == [
        "pty,id=charserial0,logfile=/l,,1,logappend=off"
    ]


def test_our_log_is_not_in_the_xml() -> None:
    assert written(completed(serial("pty", "<log/>")), "serial") == [f"<serial type='pty'>{PORT}</serial>"]


@pytest.mark.parametrize(
    ("xml", "code", "origin", "sentence"),
    [
        (serial("unix"), INTERNAL, ErrorDomain.DOMAIN, "Missing source path attribute for char device"),
        (serial("dev"), INTERNAL, ErrorDomain.DOMAIN, "Missing source path attribute for char device"),
        (serial("tcp"), INTERNAL, ErrorDomain.DOMAIN, "Missing source host attribute for char device"),
        (
            serial("tcp", "<source host='a'/>"),
            INTERNAL, ErrorDomain.DOMAIN, "Missing source service attribute for char device",
        ),
        (
            serial("udp", "<source mode='bind' host='a' service='1'/>"),
            INTERNAL, ErrorDomain.DOMAIN, "Missing source service attribute for char device",
        ),
        (serial("zz"), CONFIG, ErrorDomain.DOMAIN, "unknown type presented to host for character device: zz"),
        (
            serial("tcp", "<source host='a' service='1'/><protocol type='zz'/>"),
            CONFIG, ErrorDomain.DOMAIN, "Unknown protocol 'zz'",
        ),
        (
            serial("unix", "<source mode='zz' path='/a'/>"),
            XML, ErrorDomain.XML, "Invalid value for attribute 'mode' in element 'source': 'zz'.",
        ),
        (
            serial("tcp", "<source host='a' service='1'/><source host='b' service='1'/>"),
            XML, ErrorDomain.DOMAIN, "only one source element is allowed for character device",
        ),
        (
            serial("unix", "<source path='/s'><reconnect enabled='yes'/></source>"),
            XML, ErrorDomain.XML, "Missing required attribute 'timeout' in element 'reconnect'",
        ),
        (
            serial("unix", "<source mode='bind' path='/s'><reconnect enabled='yes' timeout='1'/></source>"),
            INTERNAL, ErrorDomain.DOMAIN, "chardev reconnect is possible only for connect mode",
        ),
        (serial("nmdm", "<source master='/a' slave='/b'/>"), CONFIG, ErrorDomain.QEMU, "unsupported chardev 'nmdm'"),
        (serial("qemu-vdagent"), CONFIG, ErrorDomain.QEMU, "unsupported chardev 'qemu-vdagent'"),
        (serial("dbus", "<source channel='x'/>"), CONFIG, ErrorDomain.QEMU, "unsupported chardev 'dbus'"),
        (serial("dbus"), CONFIG, ErrorDomain.DOMAIN, "Missing source channel attribute for char device"),
        (
            serial("spiceport", "<source channel='x'/>"),
            CONFIG, ErrorDomain.QEMU, "chardev 'spiceport' not supported without spice graphics",
        ),
    ],
)  # fmt: skip
def test_refuses_in_libvirts_words(xml: str, code: ErrorNumber, origin: ErrorDomain, sentence: str) -> None:
    with pytest.raises(EmbedError) as caught:
        completed(xml)
    assert (caught.value.code, caught.value.origin, caught.value.detail) == (code, origin, sentence)


@pytest.mark.parametrize(
    ("xml", "named"),
    [
        (serial("stdio"), "'stdio'"),
        (serial("null", "<source path='/x'/>"), "'path' of element <source>"),
        (serial("pty", "<protocol type='telnet'/>"), "<protocol> with type 'telnet'"),
        (serial("tcp", "<source host='a' service='1'/><protocol type='tls'/>"), "'tls'"),
        (serial("tcp", "<source host='a' service='1' tls='yes'/>"), "tls='yes'"),
        (
            serial("unix", f"<source path='/{'n' * 107}'><reconnect enabled='yes' timeout='1'/></source>"),
            "more than 107 bytes",
        ),
    ],
)
def test_refuses_by_name_what_cannot_be_given(xml: str, named: str) -> None:
    with pytest.raises(EmbedError, match=named) as caught:
        completed(xml)
    assert caught.value.code == CONFIG


class HostAt(FakeHost):
    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def path(self, kind: FileKind, domain: str, item: str) -> str:
        return str(self.root / item)


@pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")
def test_the_host_s_ends_are_there(tmp_path: Path) -> None:
    deep = tmp_path / ("long, " * 20) / ("name" * 20)
    deep.mkdir(parents=True)
    host = HostAt(tmp_path)
    domain = completed(
        f"<serial type='pty'/><serial type='unix'><source mode='bind' path='{deep / 's'}'/></serial>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
        host=host,
    )

    async def look() -> None:
        async with running(domain, host, tmp_path / "log") as monitor:
            answer = await monitor.execute("query-chardev")
            learn(domain, answer)
            labels = {"charserial0", "charserial1", "charchannel0", "charmonitor"}
            assert {chardev["label"] for chardev in answer} == labels
            terminal, sock = consoles(domain)
            assert terminal.path is not None
            assert stat.S_ISCHR(os.stat(terminal.path).st_mode)  # noqa: PTH116
            assert (sock.alias, sock.type, sock.listens, sock.path) == ("serial1", "unix", True, str(deep / "s"))
            with connect_unix(deep / "s"):
                await connected(monitor, "charserial1")
            assert (tmp_path / "serial0").exists()

    asyncio.run(look())
    assert written(domain, "channel", inactive=False)[0].count("state='disconnected'") == 1
    assert not (deep / "s").exists()


async def connected(monitor: object, label: str) -> None:
    """Return when QEMU has taken the connection: its accept is a turn of its loop after ours."""
    async with asyncio.timeout(10):
        while True:
            answer = await monitor.execute("query-chardev")  # type: ignore[attr-defined]
            if any(c["label"] == label and "disconnected" not in c["filename"] for c in answer):
                return
