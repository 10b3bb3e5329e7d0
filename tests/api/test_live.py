"""The face on real QEMU: what only the whole way down can show. No guest boots here."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.driver.uri import make_uri
from tests.api.test_connect import failure
from tests.api.test_events import Calls

UUID = "11111111-1111-1111-1111-111111111111"
XML = f"""
<domain type='qemu'>
  <name>a</name><uuid>{UUID}</uuid><memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


@pytest.fixture
def uri(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A root; the probe of QEMU is kept for the whole run, out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(shared / "probe"))
    return make_uri(tmp_path / "a root, with a comma")


@pytest.fixture
def conn(uri: str) -> Iterator[libvirt.virConnect]:
    with libvirt.open(uri) as connection:
        yield connection


def lifecycle(calls: Calls, count: int) -> list[tuple[int, int]]:
    return [calls.next()[2:4] for _ in range(count)]


def test_the_life_of_a_transient_domain(conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(calls, None)
    domain = conn.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED)
    assert domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]
    assert domain.info()[1:4] == [32768, 32768, 1]
    assert (domain.OSType(), domain.maxVcpus(), domain.ID()) == ("hvm", 1, 1)
    domain.resume()
    domain.suspend()
    domain.destroy()
    assert lifecycle(calls, 6) == [
        (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED),
        (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED),
        (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED),
        (libvirt.VIR_DOMAIN_EVENT_SHUTDOWN, libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST),
        (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED),
    ]
    gone = f"Domain not found: no domain with matching uuid '{UUID}' (a)"
    assert failure(domain.info) == (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, gone)


def test_the_life_of_a_persistent_domain(conn: libvirt.virConnect) -> None:
    domain = conn.defineXML(XML)
    assert (domain.isPersistent(), domain.isActive(), domain.ID()) == (1, 0, -1)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "title", None, None)
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    assert conn.listDomainsID() == [domain.ID()]
    assert domain.metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None) == "title"
    domain.destroy()
    assert domain.rename("b") == 0
    assert conn.listDefinedDomains() == ["b"]
    assert "<name>b</name>" in domain.XMLDesc()
    domain.undefine()
    assert conn.listAllDomains() == []


def test_passthrough_and_qemus_own_events(conn: libvirt.virConnect) -> None:
    domain, calls = conn.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED), Calls()
    reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-status"}', 0))
    assert reply["return"]["running"] is False
    hmp = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    assert "paused" in libvirt_qemu.qemuMonitorCommand(domain, "info status", hmp)
    libvirt_qemu.qemuMonitorEventRegister(conn, domain, "RESUME", calls, None, 0)
    domain.resume()
    _, subject, name, seconds, micros, details, _ = calls.next()
    assert (subject.UUIDString(), name, details) == (UUID, "RESUME", None)
    assert seconds > 0
    assert 0 <= micros < 1_000_000


def test_auto_destroy_ends_with_the_connection_that_asked_for_it(uri: str, conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(calls, None)
    flags = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
    other = libvirt.open(uri)
    other.createXML(XML, flags)
    conn.createXML(XML.replace(">a<", ">b<").replace(UUID, UUID.replace("1", "2")), flags)
    other.close()
    assert [d.name() for d in conn.listAllDomains()] == ["b"]
    assert lifecycle(calls, 6)[-1] == (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)


def test_closing_ends_what_runs_and_frees_the_root(uri: str) -> None:
    for number in (1, 2):
        with libvirt.open(uri) as conn:
            assert conn.listAllDomains() == []
            assert conn.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED).ID() == number


def test_a_read_only_connection_sees_and_does_not_touch(uri: str, conn: libvirt.virConnect) -> None:
    conn.createXML(XML, libvirt.VIR_DOMAIN_START_PAUSED)
    with libvirt.openReadOnly(uri) as watching:
        domain = watching.lookupByName("a")
        assert domain.isActive()
        assert failure(domain.destroy)[0] == libvirt.VIR_ERR_OPERATION_DENIED
    assert conn.lookupByName("a").isActive()


def test_what_the_host_can_do(conn: libvirt.virConnect) -> None:
    assert conn.getVersion() >= 6_000_000
    assert conn.getCapabilities().startswith("<capabilities>")
    assert conn.getDomainCapabilities().startswith("<domainCapabilities>")
    assert "-machine pc-q35-" in conn.domainXMLToNative("qemu-argv", XML)
    assert conn.listAllDomains() == []


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("qemu:///system", "INTERNAL_ERROR"),
        ("qemu:///session", "INTERNAL_ERROR"),
        ("test:///default", "NO_CONNECT"),
        ("qemu+ssh://h/system", "NO_CONNECT"),
        ("qemu://h/embed?root=/r", "NO_CONNECT"),
        ("", "NO_CONNECT"),
    ],
)
def test_no_other_uri_is_taken(uri: str, code: str) -> None:
    assert failure(libvirt.open, uri)[0] == getattr(libvirt, f"VIR_ERR_{code}")
