"""The names of one network: DNS questions to answers. Messages are read and written by dnslib."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from dnslib import AAAA, CLASS, PTR, QTYPE, RCODE, RR, SRV, TXT, A, DNSError, DNSQuestion, DNSRecord

from pytest_embedvm.network.frames import Address

PORT: Final = 53
#: How long an answer may be remembered, in seconds: not at all, since a test may change it.
TTL_SECONDS: Final = 0

_REVERSE: Final = (".in-addr.arpa", ".ip6.arpa")


@dataclass(frozen=True)
class Service:
    """`<srv>`: where a service of a domain is."""

    name: str
    target: str
    port: int
    priority: int = 0
    weight: int = 0


@dataclass
class Names:
    """What a network's own name server knows. Names are without a dot at the end, in lower case."""

    domain: str | None = None
    hosts: dict[str, list[Address]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)

    def add(self, name: str, address: Address) -> None:
        """Have NAME, with and without the network's domain, mean ADDRESS too."""
        for spelled in self._spellings(name):
            known = self.hosts.setdefault(spelled, [])
            if address not in known:
                known.append(address)

    def remove(self, name: str, address: Address) -> None:
        for spelled in self._spellings(name):
            known = self.hosts.get(spelled, [])
            if address in known:
                known.remove(address)
            if not known:
                self.hosts.pop(spelled, None)

    def _spellings(self, name: str) -> Iterable[str]:
        name = name.lower().rstrip(".")
        return (name, f"{name}.{self.domain}") if self.domain and "." not in name else (name,)

    def answer(self, data: bytes) -> Answer | None:
        """What is sent back for the question DATA; None if it is no question."""
        try:
            asked = DNSRecord.parse(data)
        except DNSError:
            return None
        if asked.header.qr or len(asked.questions) != 1:
            return None
        question: DNSQuestion = asked.questions[0]
        reply = asked.reply(ra=1, aa=1)
        name = str(question.qname).rstrip(".").lower()
        known = self._answers(name, question)
        if known is None:
            reply.header.aa = 0
            reply.header.rcode = RCODE.NXDOMAIN
            return Answer(reply.pack(), known=self._ours(name))
        for record in known:
            reply.add_answer(record)
        return Answer(reply.pack(), known=True)

    def _ours(self, name: str) -> bool:
        """Whether nobody else could know NAME: no dot in it, or the network's domain at its end."""
        return "." not in name or (self.domain is not None and name.endswith(f".{self.domain}"))

    def _answers(self, name: str, question: DNSQuestion) -> list[RR] | None:
        """The records of the kind that is asked for; None if the name is not known at all."""
        if name.endswith(_REVERSE):
            found = [PTR(host) for host in self._hosts_of(name)]
            return [_record(name, "PTR", found[0])] if found else None
        addresses = self.hosts.get(name, [])
        services = [service for service in self.services if service.name == name]
        if not addresses and not services and name not in self.texts:
            return None
        records = [_address(name, address) for address in addresses]
        records += [_record(name, "SRV", SRV(s.priority, s.weight, s.port, s.target)) for s in services]
        records += [_record(name, "TXT", TXT(self.texts[name]))] if name in self.texts else []
        return [r for r in records if question.qtype in (r.rtype, QTYPE.ANY)]

    def _hosts_of(self, reverse: str) -> list[str]:
        """The names of an address that is spelled as reverse look-ups do; the longest, which has a domain, first."""
        wanted = _address_of(reverse)
        names = [name for name, addresses in self.hosts.items() if wanted in addresses]
        return sorted(names, key=len, reverse=True)


@dataclass(frozen=True)
class Answer:
    """A reply; `known` says that nobody else has to be asked."""

    data: bytes
    known: bool


def _record(name: str, kind: str, data: object) -> RR:
    return RR(name, getattr(QTYPE, kind), CLASS.IN, TTL_SECONDS, data)


def _address(name: str, address: Address) -> RR:
    if isinstance(address, IPv4Address):
        return _record(name, "A", A(str(address)))
    return _record(name, "AAAA", AAAA(str(address)))


def _address_of(reverse: str) -> Address | None:
    labels = reverse.split(".")[:-2][::-1]
    try:
        if reverse.endswith(".in-addr.arpa"):
            return ip_address(".".join(labels))
        return IPv6Address(":".join("".join(labels)[at : at + 4] for at in range(0, 32, 4)))
    except ValueError:
        return None
