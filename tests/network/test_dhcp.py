from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.network import dhcp
from pytest_embedvm.network.dhcp import Message, Offer, Reservation, Server

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
MAC = b"RT\0\0\0\1"
GATEWAY = IPv4Address("10.1.0.1")


@pytest.fixture
def server() -> Server:
    return make_server()


def make_server(*reservations: Reservation, last: str = "10.1.0.20") -> Server:
    offer = Offer(GATEWAY, IPv4Network("10.1.0.0/24"), router=None, dns=GATEWAY, domain="test", mtu=1400)
    return Server(offer, [(IPv4Address("10.1.0.10"), IPv4Address(last))], list(reservations))


def request(kind: int, mac: bytes = MAC, client: str = "0.0.0.0", **options: bytes) -> bytes:
    codes = {"name": 12, "wanted": 50, "server": 54, "identity": 61, "fqdn": 81}
    said = {53: bytes((kind,))} | {codes[name]: value for name, value in options.items()}
    return bytes(Message(1, 0x1234, 0, IPv4Address(client), IPv4Address(0), mac, said))


def lease(server: Server, mac: bytes = MAC, now: float = 0, **options: bytes) -> str:
    """Discover, be offered, ask, be given."""
    offered = server.answer(request(DISCOVER, mac, **options), now)
    assert offered is not None
    assert offered.type == OFFER
    wanted = {"wanted": offered.yours.packed, "server": GATEWAY.packed}
    given_ = server.answer(request(REQUEST, mac, **options, **wanted), now)
    assert given_ is not None
    assert (given_.type, given_.yours) == (ACK, offered.yours)
    return str(given_.yours)


def test_a_client_gets_an_address_and_is_told_the_network(server: Server) -> None:
    answer = server.answer(request(DISCOVER), 0)
    assert answer is not None
    assert (answer.operation, answer.transaction, answer.mac) == (2, 0x1234, MAC)
    assert answer.yours == IPv4Address("10.1.0.10")
    options = {code: value for code, value in answer.options.items() if code != 53}
    assert options == {
        1: IPv4Address("255.255.255.0").packed,
        6: GATEWAY.packed,
        15: b"test",
        26: struct.pack("!H", 1400),
        51: struct.pack("!I", 3600),
        54: GATEWAY.packed,
        58: struct.pack("!I", 1800),
        59: struct.pack("!I", 3150),
    }


def test_a_network_that_leads_somewhere_names_its_router(server: Server) -> None:
    server.offer = Offer(GATEWAY, IPv4Network("10.1.0.0/24"), router=GATEWAY, dns=None)
    answer = server.answer(request(DISCOVER), 0)
    assert answer is not None
    assert answer.options[3] == GATEWAY.packed
    assert 6 not in answer.options


def test_each_gets_its_own_and_gets_it_again(server: Server) -> None:
    macs = [b"RT\0\0\0" + bytes((n,)) for n in range(5)]
    first = [lease(server, mac) for mac in macs]
    assert len(set(first)) == 5
    assert [lease(server, mac) for mac in macs] == first


def test_who_starts_anew_has_no_lease_and_gets_the_same_again(server: Server) -> None:
    first = lease(server)
    server.end(MAC)
    server.end(b"RT\0\0\0\2")  # who never had one
    assert server.leases(0) == []
    assert lease(server) == first
    server.end(MAC)
    assert lease(server, b"RT\0\0\0\2") == first  # nobody waits for it
    assert lease(server) != first


def test_the_range_can_be_full(server: Server) -> None:
    for number in range(11):
        lease(server, b"RT\0\0\0" + bytes((number,)))
    assert server.answer(request(DISCOVER, b"RT\0\0\1\0"), 0) is None
    # An hour later all leases have ended.
    assert server.answer(request(DISCOVER, b"RT\0\0\1\0"), 3601) is not None


@pytest.mark.parametrize(
    ("reservation", "options"),
    [
        (Reservation(mac="52:54:00:00:00:01", ip=IPv4Address("10.1.0.200")), {}),
        (Reservation(client_id="01:02", ip=IPv4Address("10.1.0.200")), {"identity": b"\1\2"}),
        (Reservation(name="db", ip=IPv4Address("10.1.0.200")), {"name": b"db"}),
    ],
    ids=["mac", "id", "name"],
)
def test_a_reservation_is_kept(reservation: Reservation, options: dict[str, bytes]) -> None:
    server = make_server(reservation)
    assert lease(server, **options) == "10.1.0.200"
    assert lease(server, b"RT\0\0\0\2") == "10.1.0.10"


def test_a_reserved_address_is_nobody_elses() -> None:
    server = make_server(Reservation(mac="52:54:00:00:00:09", ip=IPv4Address("10.1.0.10")))
    assert lease(server) == "10.1.0.11"


def test_a_reservation_gives_a_name() -> None:
    server = make_server(Reservation(mac="52:54:00:00:00:01", name="db"))
    answer = server.answer(request(DISCOVER), 0)
    assert answer is not None
    assert answer.options[12] == b"db"
    lease(server)
    assert [entry.name for entry in server.leases(0)] == ["db"]


def test_an_address_of_another_network_is_refused(server: Server) -> None:
    answer = server.answer(request(REQUEST, wanted=IPv4Address("192.168.1.5").packed), 0)
    assert answer is not None
    assert answer.type == NAK
    assert dhcp.wants_broadcast(answer)


def test_an_address_that_another_one_has_is_refused(server: Server) -> None:
    taken = lease(server)
    answer = server.answer(request(REQUEST, b"RT\0\0\0\2", wanted=IPv4Address(taken).packed), 0)
    assert answer is not None
    assert answer.type == NAK


def test_another_servers_client_is_left_alone(server: Server) -> None:
    assert server.answer(request(REQUEST, wanted=b"\n\1\0\n", server=b"\n\1\0\2"), 0) is None


def test_a_client_renews_what_it_has(server: Server) -> None:
    address = lease(server)
    answer = server.answer(request(REQUEST, client=address), 3000)
    assert answer is not None
    assert (answer.type, str(answer.yours)) == (ACK, address)
    assert [entry.expires for entry in server.leases(3600)] == [6600]


def test_a_released_address_is_free_again(server: Server) -> None:
    address = lease(server)
    assert server.answer(request(RELEASE, client=address), 0) is None
    assert server.leases(0) == []
    assert lease(server, b"RT\0\0\0\2") == address


def test_a_declined_address_is_not_given_again(server: Server) -> None:
    address = lease(server)
    server.answer(request(DECLINE, wanted=IPv4Address(address).packed), 0)
    assert lease(server) == "10.1.0.11"


def test_who_has_an_address_can_ask_for_the_rest(server: Server) -> None:
    answer = server.answer(request(INFORM, client="10.1.0.77"), 0)
    assert answer is not None
    assert (answer.type, answer.yours) == (ACK, IPv4Address(0))
    assert 51 not in answer.options
    assert answer.options[6] == GATEWAY.packed


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"name": b"web"}, "web"),
        ({"name": b"Web.example.org"}, "web"),
        ({"fqdn": b"\x04\0\0\x03web\x07example\0"}, "web"),
        ({"fqdn": b"\x00\0\0web.example"}, "web"),
        ({"fqdn": b"\x04"}, None),
        ({"name": b"not a name"}, None),
        ({"name": b"\xff\xfe"}, None),
        ({}, None),
    ],
)
def test_the_name_that_a_client_says(server: Server, options: dict[str, bytes], name: str | None) -> None:
    lease(server, **options)
    assert [entry.name for entry in server.leases(0)] == [name]


@given(st.binary(max_size=400))
def test_nothing_a_guest_sends_breaks_it(data: bytes) -> None:
    make_server().answer(data, 0)
    make_server().answer(request(DISCOVER)[:236] + b"\x63\x82\x53\x63" + data, 0)
