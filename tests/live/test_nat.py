"""What guests reach through user-mode NAT, and what they do not; and how the host reaches them."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM
from tests.live.test_network import LAB, address, hosts_own, reaches

NAT = LAB.replace("<domain", "<forward mode='nat'/><domain")


@contextlib.contextmanager
def greeter(host: str) -> Iterator[int]:
    """A TCP server on the host's address HOST that says hello to each; its port."""
    with socket.create_server((host, 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    with peer:
                        peer.sendall(b"hello from the host\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def greeting(vm: VM, host: str, port: int) -> str:
    return vm.run(f"nc -w 3 {host} {port} </dev/null", check=False).text


def start_network(connection: libvirt.virConnect, xml: str) -> libvirt.virNetwork:
    connection.networkLookupByName("default").destroy()
    network = connection.networkDefineXML(xml)
    network.create()
    return network


def test_a_guest_of_a_nat_network_reaches_out_and_not_the_hosts_loopback(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM]
) -> None:
    own = hosts_own()
    if not own:
        pytest.skip("the host has no address but its loopback's")
    network = start_network(embedvm_conn, NAT)
    vm = vm_factory(xml=embedvm_domain_xml)
    address(vm, network)
    vm.wait_until(lambda: "default via 10.9.0.1" in vm.run("ip route").text, timeout=60, message="a way out")
    with greeter(own[0]) as port:
        vm.wait_until(lambda: greeting(vm, own[0], port) == "hello from the host\n", timeout=60)

    # Nothing on the host's loopback, by whatever name; not even for a guest that tries.
    vm.run("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip addr del 127.0.0.1/8 dev lo || true", check=False)
    vm.run("ip route add 127.0.0.0/8 via 10.9.0.1 table local || true; ip route add 127.0.0.0/8 via 10.9.0.1 || true")
    with greeter("127.0.0.1") as port:
        for target in ("127.0.0.1", "127.0.0.2", "10.9.0.1", "10.0.2.2", "198.18.0.2", "198.18.0.3", "0.0.0.0"):
            assert greeting(vm, target, port) == "", target
    assert not reaches(vm, "198.18.0.2")

    network.destroy()  # and that is the end of it
    with greeter(own[0]) as port:
        assert greeting(vm, own[0], port) == ""


def test_a_kept_guest_gets_its_way_out_back(tmp_path: Path, embedvm_domain_xml: str) -> None:
    own = hosts_own()
    if not own:
        pytest.skip("the host has no address but its loopback's")
    uri = make_uri(tmp_path / "kept")
    with libvirt.open(uri, keep_running=True) as first:
        start_network(first, NAT).setAutostart(1)
        domain = first.defineXML(embedvm_domain_xml)
        domain.create()
    with libvirt.open(uri) as second:
        domain = second.lookupByName(domain.name())
        try:
            with VM(domain) as vm, greeter(own[0]) as port:
                vm.wait_ready(timeout=120)
                said = lambda: greeting(vm, own[0], port) == "hello from the host\n"  # noqa: E731
                vm.wait_until(said, timeout=120, message="the host's greeting")
                assert vm.forward(22)[0] == "127.0.0.1"
        finally:
            domain.destroy()
