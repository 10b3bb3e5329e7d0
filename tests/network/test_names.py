from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.network.names import Answer, Names, Service


@pytest.fixture
def names() -> Names:
    names = Names(
        domain="test", texts={"about": "a network"}, services=[Service("_ldap._tcp.test", "db.test", 389, 1, 2)]
    )
    names.add("db", IPv4Address("10.1.0.10"))
    names.add("db", IPv6Address("fd00::10"))
    names.add("www.example.org", IPv4Address("10.1.0.80"))
    return names


def ask(names: Names, name: str, kind: str = "A") -> tuple[str, list[str], bool]:
    """The return code, the answers, and whether somebody else could know better."""
    answer = names.answer(DNSRecord.question(name, kind).pack())
    assert answer is not None
    record = DNSRecord.parse(answer.data)
    return RCODE[record.header.rcode], [f"{QTYPE[r.rtype]} {r.rdata}" for r in record.rr], answer.known


@pytest.mark.parametrize(
    ("name", "kind", "answers"),
    [
        ("db", "A", ["A 10.1.0.10"]),
        ("DB.test.", "A", ["A 10.1.0.10"]),
        ("db.test", "AAAA", ["AAAA fd00::10"]),
        ("db.test", "ANY", ["A 10.1.0.10", "AAAA fd00::10"]),
        ("db.test", "MX", []),
        ("www.example.org", "A", ["A 10.1.0.80"]),
        ("10.0.1.10.in-addr.arpa", "PTR", ["PTR db.test."]),
        (IPv6Address("fd00::10").reverse_pointer, "PTR", ["PTR db.test."]),
        ("about", "TXT", ['TXT "a network"']),
        ("_ldap._tcp.test", "SRV", ["SRV 1 2 389 db.test."]),
    ],
)
def test_answers_what_it_knows(names: Names, name: str, kind: str, answers: list[str]) -> None:
    assert ask(names, name, kind) == ("NOERROR", answers, True)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("nobody", True),
        ("nobody.test", True),
        ("www.example.net", False),
        ("9.0.1.10.in-addr.arpa", False),
        ("x.in-addr.arpa", False),
    ],
)
def test_says_whether_somebody_else_could_know(names: Names, name: str, known: bool) -> None:
    assert ask(names, name, "PTR" if "arpa" in name else "A") == ("NXDOMAIN", [], known)


def test_a_host_that_left_is_not_known_any_more(names: Names) -> None:
    names.remove("db", IPv4Address("10.1.0.10"))
    assert ask(names, "db", "A") == ("NOERROR", [], True)
    names.remove("db", IPv6Address("fd00::10"))
    assert ask(names, "db", "A") == ("NXDOMAIN", [], True)
    names.remove("db", IPv6Address("fd00::10"))


def test_an_answer_is_not_to_be_remembered(names: Names) -> None:
    answer = names.answer(DNSRecord.question("db").pack())
    assert isinstance(answer, Answer)
    assert [r.ttl for r in DNSRecord.parse(answer.data).rr] == [0]


def test_an_answer_is_no_question(names: Names) -> None:
    assert names.answer(DNSRecord.question("db").reply().pack()) is None


@given(st.binary(max_size=200))
def test_nothing_a_guest_sends_breaks_it(data: bytes) -> None:
    Names().answer(data)
    Names().answer(DNSRecord.question("db").pack()[:12] + data)
