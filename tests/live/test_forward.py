"""A test reaches what listens in a guest, and the guest gains nothing by it."""

from __future__ import annotations

import contextlib
import platform
import socket
import struct
import time
from collections.abc import Callable

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM
from pytest_embedvm.guest.network import cards
from tests.live.test_nat import greeter, greeting
from tests.live.test_network import ON_DEFAULT

SECONDS = 30
#: A server that is gone from a port: what connects is refused, or hung up on at once.
GONE = (ConnectionError, TimeoutError)

#: For x86-64: socket(AF_INET, SOCK_DGRAM), bind to port 7, then recvfrom and sendto for ever.
_ECHO = bytes.fromhex(
    "bf02000000be0200000031d2b8290000000f0589c34881ec0008000048c704240200000748c74424080000000089df4889e6ba10000000b8"
    "310000000f05c74424101000000089df488d742440badc0500004531d24989e04c8d4c2410b82d0000000f0589c289df488d7424404531d2"
    "4989e041b910000000b82c0000000f05ebbc"
)


def echo_program() -> bytes:
    """A static ELF executable that answers each datagram to port 7 with itself."""
    base, size = 0x400000, 120 + len(_ECHO)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + _ECHO


def read(place: tuple[str, int]) -> bytes:
    """All that is said at PLACE until it hangs up."""
    with socket.create_connection(place, timeout=SECONDS) as peer:
        return b"".join(iter(lambda: peer.recv(4096), b""))


def echoed(peer: socket.socket, place: tuple[str, int], text: bytes) -> bytes:
    """The answer to TEXT, which is sent again as long as there is none, as it is with datagrams."""
    peer.settimeout(1)
    for _ in range(SECONDS):
        peer.sendto(text, place)
        try:
            return peer.recv(2000)
        except TimeoutError:
            continue
    return b""


def serve(vm: VM, port: int = 22) -> None:
    """Have VM say hello to who connects, and what it was sent before a line's end."""
    vm.write_text("/tmp/hello", "#!/bin/sh\nread line\necho hello $line\n", 0o755)
    vm.run(f"nc -ll -p {port} -e /tmp/hello </dev/null >/dev/null 2>&1 &")


def ask(place: tuple[str, int], line: bytes) -> bytes:
    """The answer to LINE; nothing when nobody listens yet, and the connection is reset."""
    with socket.create_connection(place, timeout=SECONDS) as peer, contextlib.suppress(ConnectionError):
        peer.sendall(line + b"\n")
        return b"".join(iter(lambda: peer.recv(4096), b""))
    return b""


def test_ports_of_a_guest_on_a_private_network(vm: VM) -> None:
    place = vm.forward(22)
    assert place[0] == "127.0.0.1"
    assert vm.forward(22) == vm.forward(22, card=0) == vm.forward(22, card=cards(vm.domain)[0].mac) == place
    other = vm.forward(23)
    assert other != place

    serve(vm)
    vm.wait_until(lambda: ask(place, b"you") == b"hello you\n", timeout=60, message="an answer from the guest")
    assert ask(place, b"x" * 20000) == b"hello " + b"x" * 20000 + b"\n"

    # The guest sees its network's own host, and cannot go the way back.
    gateway = "192.168.122.1"
    assert gateway in vm.run("netstat -tn").text
    with greeter("127.0.0.1") as port:
        for target in (gateway, "127.0.0.1", "198.18.0.2", "10.0.2.2"):
            assert greeting(vm, target, port) == ""
    assert "default" not in vm.run("ip route").text

    # Its address, by whom one asks.
    (leased,) = vm.addresses()
    assert leased in vm.addresses("arp")
    assert leased in vm.addresses("agent")
    card = cards(vm.domain)[0]
    found = vm.domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_LEASE)
    entry = {"addr": str(leased), "prefix": 24, "type": libvirt.VIR_IP_ADDR_TYPE_IPV4}
    assert found == {card.alias: {"addrs": [entry], "hwaddr": card.mac}}
    told = vm.domain.interfaceAddresses(libvirt.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    assert entry in told["eth0"]["addrs"]
    assert told["lo"]["addrs"][0]["addr"] == "127.0.0.1"

    # It follows the guest to another address.
    vm.run("killall udhcpc || true; ip addr flush dev eth0; ip addr add 192.168.122.77/24 dev eth0")
    vm.run(["arping", "-c", "1", "-U", "-I", "eth0", "192.168.122.77"], check=False)
    vm.wait_until(lambda: ask(place, b"again") == b"hello again\n", timeout=60, message="an answer from the address")

    assert str(vm.addresses("arp")[-1]) == "192.168.122.77"
    vm.domain.destroy()
    for left in (place, other):
        with pytest.raises(GONE):
            read(left)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the server in the guest is x86-64 code")
def test_datagrams_to_a_guest_on_a_private_network(vm: VM) -> None:
    vm.write_bytes("/tmp/echo", echo_program(), 0o755)
    vm.run("/tmp/echo >/dev/null 2>&1 </dev/null &")
    place = vm.forward(7, "udp")
    assert vm.forward(7, "udp") == place
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        assert echoed(one, place, b"from one") == b"from one"
        assert echoed(other, place, b"from the other") == b"from the other"
        assert echoed(one, place, b"x" * 1400) == b"x" * 1400


@pytest.mark.embedvm(network="user")
def test_ports_of_a_guest_behind_slirp(vm: VM) -> None:
    place = vm.forward(22)
    assert place[0] == "127.0.0.1"
    assert vm.forward(22) == place
    assert vm.forward(22, "udp") != place
    serve(vm)
    vm.wait_until(lambda: ask(place, b"you") == b"hello you\n", timeout=60, message="an answer from the guest")
    with pytest.raises(libvirt.libvirtError, match="there is no tcp port 70000"):
        vm.forward(70000)
    vm.domain.destroy()
    with pytest.raises(GONE):
        read(place)
    with pytest.raises(libvirt.libvirtError, match="Domain not found"):
        vm.forward(22)


LIMITED = """<network><name>limited</name><ip address='10.7.0.1' prefix='24'><dhcp>
  <range start='10.7.0.10' end='10.7.0.20'/></dhcp></ip>
  <portgroup name='slow'><bandwidth><outbound average='64' burst='64'/></bandwidth></portgroup></network>"""


def test_a_card_sends_no_more_than_its_bandwidth(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM]
) -> None:
    embedvm_conn.networkCreateXML(LIMITED)
    source = '<source network="limited" portgroup="slow" /><mtu size="1300"/>'
    vm = vm_factory(xml=embedvm_domain_xml.replace(ON_DEFAULT, source))
    assert vm.run("cat /sys/class/net/eth0/mtu").text == "1300\n"
    vm.run("nc -ll -p 80 -e head -c 327680 /dev/zero </dev/null >/dev/null 2>&1 &")
    place = vm.forward(80)
    vm.wait_until(vm.addresses, timeout=60)
    began = time.monotonic()
    assert len(read(place)) == 320 * 1024
    # 256 KiB are more than a burst, and take 4 s at the least; a slow host only takes longer.
    assert time.monotonic() - began > 3.5
