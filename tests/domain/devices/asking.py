"""Domains made of a few devices, and what becomes of them."""

from __future__ import annotations

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain import complete, definition
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.errors import EmbedError
from tests.fakes.host import FakeHost


def domain_xml(devices: str, machine: str = "q35") -> str:
    return (
        "<domain type='qemu'><name>t</name><uuid>11111111-1111-1111-1111-111111111111</uuid>"
        "<memory unit='MiB'>64</memory>"
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"
    )


def completed(devices: str, machine: str = "q35", host: Host | None = None) -> Completed:
    return complete.complete(definition.parse(domain_xml(devices, machine)), host or FakeHost())


def refusal(devices: str, machine: str = "q35") -> tuple[str, str, str]:
    """The names of code and error domain, and the sentence, with which DEVICES are refused."""
    try:
        completed(devices, machine)
    except EmbedError as error:
        return ErrorNumber(error.code).name, ErrorDomain(error.origin).name, error.message
    raise AssertionError("the domain was accepted")
