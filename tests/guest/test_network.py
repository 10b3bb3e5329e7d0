"""Cables, partitions and bad links of VMs that need not run: what is done below is seen in the driver."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.embed import Impairment, make_uri
from pytest_embedvm.guest import VM, Network, NoCard, domain_xml
from tests.pcap import read

START = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
MAC = "52:54:00:00:00:0{}"
PRIVATE = "<interface type='network'><mac address='{}'/><source network='{}'/><model type='virtio'/></interface>"
USER = "<interface type='user'><mac address='52:54:00:00:00:0f'/><model type='virtio'/></interface>"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    with libvirt.open(make_uri(tmp_path / "root")) as connection:
        connection.networkCreateXML("<network><name>lab</name></network>")
        yield connection


@pytest.fixture
def second(connection: libvirt.virConnect) -> libvirt.virConnect:
    """To the same root; a test closes it."""
    return libvirt.open(connection.getURI())


@pytest.fixture
def vms() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def paused(stack: contextlib.ExitStack, connection: libvirt.virConnect, name: str, *cards: str) -> VM:
    xml = domain_xml(name, memory_mib=32, network="none").replace("</devices>", f"{''.join(cards)}</devices>")
    return stack.enter_context(VM(connection.createXML(xml, START)))


def on(network: str, number: int, *more: str) -> str:
    return PRIVATE.format(MAC.format(number), network).replace("<model", "".join(more) + "<model")


def wrong(vm: VM, number: int) -> tuple[Impairment, Impairment]:
    return embed.impairments(vm.domain, MAC.format(number))


def states(vm: VM) -> list[str]:
    return [line.split("'")[1] for line in vm.domain.XMLDesc().splitlines() if "<link" in line]


def blocked(network: Network, source: int, target: int) -> bool:
    """What the switch itself says."""

    def ask(switch: object) -> bool:
        return any(f.blocks(MAC.format(source), MAC.format(target)) for f in switch.faults)  # type: ignore[attr-defined]

    return network.network._ask(lambda _, live: ask(live.require_segment().switch))


def test_a_link_is_changed_and_put_back(connection: libvirt.virConnect, vms: contextlib.ExitStack) -> None:
    a = paused(vms, connection, "a", on("default", 1), on("lab", 2, "<link state='down'/>"), USER)
    assert states(a) == ["down"]
    with a.link(up=False):
        assert states(a) == ["down"] * 3
        with a.link(2, up=True):
            assert states(a) == ["down", "down", "up"]
    assert states(a) == ["up", "down", "up"]
    with a.link(MAC.format(2).upper(), up=True, delay=0.5):
        assert wrong(a, 2) == (Impairment(delay=0.5),) * 2
        assert states(a) == ["up", "up", "up"]
    assert states(a) == ["up", "down", "up"]
    assert wrong(a, 2) == (Impairment(),) * 2


def test_what_is_not_named_stays(connection: libvirt.virConnect, vms: contextlib.ExitStack) -> None:
    a = paused(vms, connection, "a", on("default", 1), on("lab", 2))
    a.link(delay=0.5, jitter=0.1)
    with a.link(0, loss=0.25, seed=3, direction="out"):
        delayed, lossy = Impairment(delay=0.5, jitter=0.1), Impairment(delay=0.5, jitter=0.1, loss=0.25, seed=3)
        assert wrong(a, 1) == (delayed, lossy)
        assert wrong(a, 2) == (delayed, delayed)
    assert wrong(a, 1) == (delayed, delayed)
    with a.link(0, loss=1.0):
        a.domain.destroy()  # the end of the block has nothing to put back then


def test_what_a_link_refuses(connection: libvirt.virConnect, vms: contextlib.ExitStack) -> None:
    a = paused(vms, connection, "a", on("lab", 1), USER)
    bare = paused(vms, connection, "bare")
    for which in (2, -1, MAC.format(9)):
        with pytest.raises(
            NoCard, match=rf"a has no card {which}; .* net0 \({MAC.format(1)}, on network 'lab'\), net1"
        ):
            a.link(which, up=False)
    with pytest.raises(NoCard, match="bare has no card; its network cards: none"):
        bare.link(up=False)
    with pytest.raises(
        libvirt.libvirtError, match=r"card net1 .* of domain 'a' is on no network .* type 'user'"
    ) as caught:
        a.link(up=False, loss=0.5)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED
    assert states(a) == ["up"]  # what came before the refusal is undone
    assert wrong(a, 1) == (Impairment(),) * 2
    with pytest.raises(libvirt.libvirtError, match="invalid argument: loss=2 is no share"):
        a.link(0, loss=2)
    with pytest.raises(ValueError, match="direction='up': possible is both, in, out"):
        a.link(0, loss=1, direction="up")  # type: ignore[arg-type]
    with pytest.raises(
        libvirt.libvirtError, match=f"domain 'a' has no card with MAC address x; it has net0 .{MAC.format(1)}"
    ):
        embed.set_link(a.domain, "x", up=True)
    connection.networkLookupByName("lab").destroy()
    with pytest.raises(libvirt.libvirtError, match=r"card net0 .* has lost network 'lab', which was stopped"):
        a.link(0, delay=1)
    a.domain.destroy()
    with pytest.raises(libvirt.libvirtError, match="Domain not found"):
        embed.set_link(a.domain, MAC.format(1), up=True)


def test_partitions_add_up_and_end(connection: libvirt.virConnect, vms: contextlib.ExitStack) -> None:
    a, b, c = (paused(vms, connection, name, on("default", n)) for n, name in enumerate("abc", start=1))
    network = a.network
    with network.partition(a, [b, c]), network.drop([b], to=c):
        assert blocked(network, 1, 2)
        assert blocked(network, 2, 1)
        assert blocked(network, 2, 3)
        assert not blocked(network, 3, 2)
    assert not any(blocked(network, one, other) for one in (1, 2, 3) for other in (1, 2, 3))
    whole = network.partition([c])
    assert blocked(network, 3, 1)
    assert not blocked(network, 1, 2)
    with whole:
        network.heal()
        assert not blocked(network, 3, 1)
    with network.partition([a]):
        network.network.destroy()


def test_what_a_partition_refuses(connection: libvirt.virConnect, vms: contextlib.ExitStack, tmp_path: Path) -> None:
    a = paused(vms, connection, "a", on("default", 1), on("lab", 2))
    b = paused(vms, connection, "b", on("lab", 3), USER)
    elsewhere = vms.enter_context(libvirt.open(make_uri(tmp_path / "elsewhere")))
    c = paused(vms, elsewhere, "c", on("default", 4))
    with pytest.raises(NoCard, match="a is on several networks, take Network"):
        _ = a.network
    assert (b.network.name, c.network.name) == ("lab", "default")
    network = Network(connection)
    assert repr(network) == "<Network 'default'>"
    with pytest.raises(
        NoCard, match=r"b has no card on network 'default' of .*; its network cards: net0 .* type 'user'"
    ):
        network.partition([a], [b])
    with pytest.raises(NoCard, match="c has no card on network 'default'"):
        network.drop(a, to=c)
    with pytest.raises(ValueError, match="a VM cannot be on two sides"):
        network.partition([a], [a])
    with pytest.raises(ValueError, match=r"partition\(\) wants a side at least"):
        network.partition()
    with pytest.raises(libvirt.libvirtError, match="no network with matching name 'x'"):
        Network(connection, "x")
    network.network.destroy()
    with pytest.raises(libvirt.libvirtError, match="network 'default' is not active"):
        network.partition([a])


def test_a_capture_ends_with_its_block_or_its_connection(
    connection: libvirt.virConnect, second: libvirt.virConnect, vms: contextlib.ExitStack
) -> None:
    a = paused(vms, second, "a", on("default", 1), USER)
    with pytest.raises(NoCard, match=r"a has several cards, say which is meant; .* net0 .*, net1 "):
        a.capture()
    with a.capture(0) as first:
        a.network.network._ask(lambda _, live: live.require_segment().inject([b"\xff" * 60]))
        first.flush()
        assert read(first.path) == [b"\xff" * 60]
    other = a.capture(1)
    assert [first, other] == a.captures
    assert (first.frames, first.left_out, other.frames) == (1, 0, 0)
    descriptors = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert first.path not in descriptors
    assert other.path in descriptors
    with pytest.raises(libvirt.libvirtError, match="invalid argument: a capture of 1 bytes is too small"):
        a.capture(0, limit=1)
    path = other.path
    a.close()
    second.close()
    assert read(path) == []
    other.flush()
    other.stop()
    with pytest.raises(libvirt.libvirtError, match="invalid connection pointer in capture"):
        embed.capture(a.domain, MAC.format(1))


def test_what_a_kept_vm_keeps(tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "kept")
    cards = on("default", 1) + USER
    xml = domain_xml("a", memory_mib=32, network="none").replace("</devices>", f"{cards}</devices>")
    with libvirt.open(uri, keep_running=True) as first, VM(first.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)) as a:
        a.link(0, up=False, delay=1)
        a.network.partition([a])
        kept = [a.capture(0), a.capture(1)]
    with libvirt.open(uri) as second:
        domain = second.lookupByName("a")
        try:
            with VM(domain) as a:
                assert states(a) == ["down"]
                assert wrong(a, 1) == (Impairment(),) * 2
                assert not blocked(a.network, 1, 2)
                assert [read(capture.path) for capture in kept] == [[], []]
                with a.capture(0) as one, a.capture(1) as other:
                    assert [one.path.name, other.path.name] == ["net0-2.pcap", "net1-2.pcap"]
        finally:
            domain.destroy()


def test_a_connection_that_may_only_read(connection: libvirt.virConnect, vms: contextlib.ExitStack) -> None:
    paused(vms, connection, "a", on("default", 1))
    reader = vms.enter_context(libvirt.openReadOnly(connection.getURI()))
    domain, network = reader.lookupByName("a"), reader.networkLookupByName("default")
    assert embed.impairments(domain, MAC.format(1)) == (Impairment(), Impairment())
    with pytest.raises(libvirt.libvirtError, match="read only access prevents set_link"):
        embed.set_link(domain, MAC.format(1), up=False)
    with pytest.raises(libvirt.libvirtError, match="read only access prevents partition"):
        embed.partition(network, [[MAC.format(1)]])
