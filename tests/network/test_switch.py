from __future__ import annotations

import pytest

from pytest_embedvm.network.partition import Deaf, Partition
from pytest_embedvm.network.switch import MOST_ADDRESSES, Port, Switch

A, B, C = (bytes((2, 0, 0, 0, 0, n)) for n in (1, 2, 3))
EVERYBODY = b"\xff" * 6


def frame(target: bytes, source: bytes) -> bytes:
    return target + source + b"\x08\x00data"


@pytest.fixture
def ports() -> list[Port]:
    return [Port(name) for name in "abc"]


@pytest.fixture
def switch(ports: list[Port]) -> Switch:
    switch = Switch()
    for port in ports:
        switch.plug(port)
    return switch


def out(switch: Switch, port: Port, target: bytes, source: bytes) -> str:
    return "".join(sorted(p.name for p in switch.receive(port, frame(target, source))))


def test_floods_until_it_knows_better(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    assert out(switch, a, B, A) == "bc"
    assert out(switch, b, A, B) == "a"
    assert out(switch, a, B, A) == "b"
    assert out(switch, a, EVERYBODY, A) == "bc"


def test_a_frame_never_goes_back_where_it_came_from(switch: Switch, ports: list[Port]) -> None:
    a = ports[0]
    out(switch, a, EVERYBODY, A)
    assert out(switch, a, A, B) == ""


def test_who_moves_is_found_again(switch: Switch, ports: list[Port]) -> None:
    a, b, c = ports
    out(switch, a, EVERYBODY, A)
    out(switch, b, EVERYBODY, A)
    assert out(switch, c, A, C) == "b"


def test_a_port_that_is_gone_is_forgotten(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    out(switch, b, EVERYBODY, B)
    switch.unplug(b)
    assert out(switch, a, B, A) == "c"


def test_a_partition_and_its_end(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    inner = Port("i", inner=True)
    switch.plug(inner)
    out(switch, b, EVERYBODY, B)
    switch.faults.append(Partition([["a"], ["b", "c"]]))
    assert out(switch, a, B, A) == ""
    assert out(switch, b, EVERYBODY, B) == "ci"
    assert out(switch, inner, EVERYBODY, C) == "abc"
    switch.faults.clear()
    assert out(switch, a, B, A) == "b"


def test_the_rest_is_a_side_too(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    switch.faults.append(Partition([["a"]]))
    assert out(switch, a, EVERYBODY, A) == ""
    assert out(switch, b, EVERYBODY, B) == "c"


def test_faults_add_up_and_may_be_one_way(switch: Switch, ports: list[Port]) -> None:
    a, b, c = ports
    switch.faults += [Deaf(["a"], ["b", "c"]), Partition([["c"]])]
    assert out(switch, a, EVERYBODY, A) == ""
    assert out(switch, b, EVERYBODY, B) == "a"
    assert out(switch, c, EVERYBODY, C) == ""
    del switch.faults[0]
    assert out(switch, a, EVERYBODY, A) == "b"


def test_who_comes_back_is_on_its_side_again(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    switch.faults.append(Partition([["a"]]))
    switch.unplug(a)
    again = Port("a")
    switch.plug(again)
    assert out(switch, again, EVERYBODY, A) == ""
    assert out(switch, b, EVERYBODY, B) == "c"


def test_made_up_addresses_do_not_fill_the_memory(switch: Switch, ports: list[Port]) -> None:
    a, b, _ = ports
    for number in range(MOST_ADDRESSES + 100):
        switch.receive(a, frame(EVERYBODY, b"\2\0" + number.to_bytes(4, "big")))
    assert len(switch._behind) == MOST_ADDRESSES
    assert out(switch, b, b"\2" + b"\xff" * 5, B) == "ac"  # who came too late is reached by flooding


def test_a_runt_and_a_group_as_sender_teach_nothing(switch: Switch, ports: list[Port]) -> None:
    assert list(switch.receive(ports[0], b"short")) == []
    out(switch, ports[0], B, EVERYBODY)
    assert switch._behind == {}
