"""Network backends: what QEMU and passt are told, port forwards, and both for real."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
from pathlib import Path

import pytest

from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.forwards import awaits_ports, learn_ports
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import Companion
from tests.domain.describing import completed, options, running, written
from tests.fakes.host import EMULATOR, FakeHost

needs_qemu = pytest.mark.skipif(shutil.which(EMULATOR) is None, reason=f"{EMULATOR} is not installed")


def interface(inside: str = "", kind: str = "user") -> str:
    return f"<interface type='{kind}'>{inside}<model type='virtio'/></interface>"


def forward(ranges: str, attributes: str = "", backend: str = "") -> str:
    return interface(f"{backend}<portForward proto='tcp' {attributes}>{ranges}</portForward>")


def passt(inside: str) -> tuple[str, ...]:
    """The words that passt is given beyond those it always is."""
    (descriptor,) = launch(completed(interface(f"<backend type='passt'/>{inside}")), FakeHost()).descriptors
    assert isinstance(descriptor.opens, Companion)
    assert descriptor.opens.argv[:5] == ("passt", "--foreground", "--quiet", "--fd", "{fd}")
    return descriptor.opens.argv[5:]


@pytest.mark.parametrize(
    ("xml", "netdev"),
    [
        (interface(), {"type": "user", "id": "hostnet0"}),
        (
            interface("<ip address='10.1.0.0' prefix='24'/><ip family='ipv6' address='fd00::' prefix='64'/>"),
            {"type": "user", "net": "10.1.0.0/24", "ipv6-prefix": "fd00::", "ipv6-prefixlen": 64, "id": "hostnet0"},
        ),
        (interface("<ip address='10.1.0.0'/>"), {"type": "user", "net": "10.1.0.0", "id": "hostnet0"}),
        (
            interface("<source address='230.0.0.1' port='5558'/>", "mcast"),
            {"type": "socket", "mcast": "230.0.0.1:5558", "id": "hostnet0"},
        ),
        (interface("<source port='5'/>", "server"), {"type": "socket", "listen": ":5", "id": "hostnet0"}),
        (
            interface("<source address='h' port='5'/>", "client"),
            {"type": "socket", "connect": "h:5", "id": "hostnet0"},
        ),
        (
            interface("<source address='h' port='5'><local address='::1' port='6'/></source>", "udp"),
            {"type": "socket", "udp": "h:5", "localaddr": "::1:6", "id": "hostnet0"},
        ),
        (
            interface("<backend type='passt'/>"),
            {"type": "stream", "addr": {"type": "fd", "str": "100"}, "server": False, "id": "hostnet0"},
        ),
    ],
)
def test_command_line(xml: str, netdev: dict[str, object]) -> None:
    (option,) = options(completed(xml), "-netdev")
    assert json.loads(option) == netdev


@pytest.mark.parametrize(
    ("xml", "hostfwd"),
    [
        (forward("<range start='2222' to='22'/>", "address='127.0.0.1'"), ["tcp:127.0.0.1:2222-:22"]),
        (forward("<range start='80'/>"), ["tcp::80-:80"]),
        (forward("<range start='8' end='9' to='80'/>"), ["tcp::8-:80", "tcp::9-:81"]),
        (forward("<range start='7' end='9'/><range start='8' exclude='yes'/>"), ["tcp::7-:7", "tcp::9-:9"]),
        (forward("<range start='0' to='22'/>"), ["tcp::0-:22"]),
    ],
)
def test_slirp_forwards(xml: str, hostfwd: list[str]) -> None:
    (option,) = options(completed(xml), "-netdev")
    assert [one["str"] for one in json.loads(option)["hostfwd"]] == hostfwd


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        ("", ()),
        ("<source dev='eth0'/>", ("--interface", "eth0")),
        ("<ip address='10.1.0.5' prefix='24'/>", ("--address", "10.1.0.5", "--netmask", "24")),
        ("<ip family='ipv6' address='fd00::5' prefix='64'/>", ("--address", "fd00::5")),
        ("<portForward proto='tcp'/>", ("--tcp-ports", "all")),
        ("<portForward proto='udp' dev='lo'><range start='53'/></portForward>", ("--udp-ports", "%lo/53")),
        (
            "<portForward proto='tcp' address='::1' dev='lo'><range start='80' end='90' to='8080'/>"
            "<range start='85' exclude='yes'/><range start='2222' to='22'/></portForward>",
            ("--tcp-ports", "::1%lo/80-90:8080-8090,~85,2222:22"),
        ),
    ],
)
def test_passt_options(inside: str, words: tuple[str, ...]) -> None:
    assert passt(inside) == words


def test_passt_s_log() -> None:
    (descriptor,) = launch(completed(interface("<backend type='passt' logFile='/l'/>")), FakeHost()).descriptors
    assert isinstance(descriptor.opens, Companion)
    assert descriptor.opens.argv[5:] == ("--log-file", "/l")


@pytest.mark.parametrize(
    ("ranges", "sentence"),
    [
        ("<range to='22'/>", "Missing required attribute 'start' in element 'range'"),
        ("<range start='0'/>", "start='0' of element 'range' is one port"),
        ("<range start='0' end='5' to='22'/>", "start='0' of element 'range' is one port"),
        ("<range start='9' end='5'/>", "Invalid value for attribute 'end' in element 'range': '5'."),
        ("<range start='9' to='5' exclude='yes'/>", "Invalid value for attribute 'to' in element 'range': '5'."),
        ("<range start='65536'/>", "go beyond 65535"),
        ("<range start='1' end='2' to='65535'/>", "go beyond 65535"),
    ],
)
def test_ranges_that_are_none(ranges: str, sentence: str) -> None:
    with pytest.raises(XMLError) as caught:
        completed(forward(ranges))
    assert sentence in caught.value.detail


def test_an_address_that_is_none() -> None:
    with pytest.raises(XMLError, match="Invalid address 'zz' in <portForward>"):
        completed(forward("<range start='1'/>", "address='zz'"))


@pytest.mark.parametrize(
    ("xml", "named"),
    [
        (forward("<range start='1'/>", "dev='lo'"), "dev='lo'"),
        (forward("<range start='1'/>", "address='::1'"), "address='::1'"),
        (forward(""), "without a <range>"),
        (forward("<range start='1' exclude='yes'/>"), "without a <range>"),
        (forward("<range start='1' end='1001'/>"), "more than 1000 ports"),
        (forward("<range start='0' to='22'/>", backend="<backend type='passt'/>"), "start='0'"),
    ],
)
def test_each_backend_refuses_what_only_the_other_can(xml: str, named: str) -> None:
    with pytest.raises(ConfigUnsupported, match=named) as caught:
        completed(xml)
    assert "backend type 'passt'" in caught.value.detail


@needs_qemu
def test_a_free_port_is_read_back(tmp_path: Path) -> None:
    host = FakeHost()
    quiet = "<interface><model type='virtio'/></interface>"
    domain = completed(quiet + forward("<range start='0' to='22'/>", "address='127.0.0.1'"), host=host)
    assert awaits_ports(domain)

    async def look() -> None:
        async with running(domain, host, tmp_path / "log") as monitor:
            arguments = {"command-line": "info usernet"}
            learn_ports(domain, await monitor.execute("human-monitor-command", arguments))
            assert not awaits_ports(domain)
            chosen = json.loads(options(domain, "-netdev")[1])["hostfwd"][0]["str"].split(":")[2].removesuffix("-")
            with socket.create_connection(("127.0.0.1", int(chosen)), timeout=10):
                pass
            assert f"<range start='{chosen}' to='22'/>" in written(domain, "interface", inactive=False)[1]
            assert "<range start='0' to='22'/>" in written(domain, "interface")[1]

    asyncio.run(look())


@needs_qemu
def test_qemu_takes_the_command_that_cuts_a_link(tmp_path: Path) -> None:
    host = FakeHost()
    domain = completed(interface("<link state='down'/>"), host=host)

    async def start() -> None:
        async with running(domain, host, tmp_path / "log") as monitor:
            (filters,) = await monitor.execute("query-rx-filter")
            assert filters["name"] == "net0"

    asyncio.run(start())


@needs_qemu
@pytest.mark.skipif(shutil.which("passt") is None, reason="passt is not installed")
def test_passt_is_connected_and_ends_with_qemu(tmp_path: Path) -> None:
    host = FakeHost()
    domain = completed(interface("<backend type='passt'/>"), host=host)
    before = passts()

    async def look() -> set[int]:
        async with running(domain, host, tmp_path / "log") as monitor:
            answer = await monitor.execute("human-monitor-command", {"command-line": "info network"})
            assert "hostnet0: index=0,type=stream" in answer
            return passts() - before

    started = asyncio.run(look())
    assert started
    assert not started & passts()


def passts() -> set[int]:
    """The processes called passt that are children of ours."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        for child in (task / "children").read_text().split():
            name = Path("/proc", child, "comm")
            if name.exists() and name.read_text().startswith("passt"):
                found.add(int(child))
    return found
