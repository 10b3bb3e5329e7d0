"""Code that was written for libvirt-python takes the drop-in as it is: here, a report as an admin's script makes it.

Run it with `pytest --embedvm -v examples/test_libvirt_code_unchanged.py`.
"""

from __future__ import annotations

from typing import Any

from pytest_embedvm import libvirt

# --- the program, which knows nothing of pytest-embedvm; its `libvirt` would be libvirt-python's -------------------

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
}


def report(uri: str) -> list[str]:
    """A line for each domain of the hypervisor at URI."""
    conn = libvirt.open(uri)
    try:
        return [describe(domain) for domain in sorted(conn.listAllDomains(), key=lambda found: found.name())]
    finally:
        conn.close()


def describe(domain: Any) -> str:
    state, max_memory, _memory, vcpus, _time = domain.info()
    return f"{domain.name()}: {STATES[state]}, {max_memory // 1024} MiB, {vcpus} vCPU"


def stop(uri: str, name: str) -> bool:
    """Whether there was such a domain to stop."""
    conn = libvirt.open(uri)
    try:
        conn.lookupByName(name).destroy()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return False
        raise
    finally:
        conn.close()
    return True


# --- its tests, each with a hypervisor of its own --------------------------------------------------------------------

XML = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


def test_report(embedvm_conn: libvirt.virConnect) -> None:
    embedvm_conn.defineXML(XML.format(name="archive"))
    embedvm_conn.createXML(XML.format(name="web"))
    assert report(embedvm_conn.getURI()) == ["archive: shut off, 64 MiB, 1 vCPU", "web: running, 64 MiB, 1 vCPU"]


def test_stop(embedvm_conn: libvirt.virConnect) -> None:
    web = embedvm_conn.defineXML(XML.format(name="web"))
    web.create()
    assert stop(embedvm_conn.getURI(), "web")
    assert not web.isActive()
    assert not stop(embedvm_conn.getURI(), "nobody")
