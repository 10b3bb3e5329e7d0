"""Driver tests: definitions, states, events and QMP on a real QEMU that never runs an instruction of a guest.

A start takes tens of milliseconds, so there can be many of these.
Run them with `pytest --embedvm -v examples/test_driver_without_a_guest.py`.
"""

from __future__ import annotations

import json
import queue

import pytest

from pytest_embedvm import libvirt, libvirt_qemu

XML = """
<domain type='qemu'>
  <name>idle</name>
  <memory unit='MiB'>64</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


@pytest.fixture
def domain(embedvm_conn: libvirt.virConnect) -> libvirt.virDomain:
    """Defined and started, its CPUs stopped."""
    defined = embedvm_conn.defineXML(XML)
    defined.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    return defined


def test_it_is_there_and_paused(embedvm_conn: libvirt.virConnect, domain: libvirt.virDomain) -> None:
    assert domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]
    assert [found.name() for found in embedvm_conn.listAllDomains()] == ["idle"]
    assert domain.isPersistent()


def test_it_can_be_asked_in_qemus_own_words(domain: libvirt.virDomain) -> None:
    answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": "query-cpus-fast"}), 0)
    assert len(json.loads(answer)["return"]) == 2


def test_events_come_in_order(embedvm_conn: libvirt.virConnect) -> None:
    seen: queue.SimpleQueue[int] = queue.SimpleQueue()
    embedvm_conn.domainEventRegisterAny(
        None,
        libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
        lambda _connection, _domain, event, _detail, _opaque: seen.put(event),
        None,
    )
    domain = embedvm_conn.defineXML(XML)
    domain.create()
    domain.suspend()
    domain.destroy()
    domain.undefine()

    expected = [
        libvirt.VIR_DOMAIN_EVENT_DEFINED,
        libvirt.VIR_DOMAIN_EVENT_RESUMED,
        libvirt.VIR_DOMAIN_EVENT_STARTED,
        libvirt.VIR_DOMAIN_EVENT_SUSPENDED,
        libvirt.VIR_DOMAIN_EVENT_SHUTDOWN,
        libvirt.VIR_DOMAIN_EVENT_STOPPED,
        libvirt.VIR_DOMAIN_EVENT_UNDEFINED,
    ]
    assert [seen.get(timeout=10) for _ in expected] == expected


def test_destroy_leaves_the_definition(embedvm_conn: libvirt.virConnect, domain: libvirt.virDomain) -> None:
    domain.destroy()
    assert not domain.isActive()
    assert embedvm_conn.listDefinedDomains() == ["idle"]
