"""Two roots in one test: two drivers that know nothing of each other, so names and uuids may be the same in both.

Run it with `pytest --embedvm -v examples/test_two_roots.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_embedvm import libvirt

#: A machine with nothing to boot: enough for a driver, and it starts in a moment.
XML = """
<domain type='qemu'>
  <name>twin</name>
  <uuid>8b9d3c1a-4f0e-4d6b-9a57-2f1c6e0d7b42</uuid>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""


def test_the_same_domain_in_two_roots(embedvm_conn_factory: Callable[..., libvirt.virConnect]) -> None:
    left, right = embedvm_conn_factory(), embedvm_conn_factory()

    twins = [connection.createXML(XML) for connection in (left, right)]
    assert {twin.UUIDString() for twin in twins} == {"8b9d3c1a-4f0e-4d6b-9a57-2f1c6e0d7b42"}

    twins[0].destroy()

    assert left.listAllDomains() == []
    assert right.lookupByName("twin").isActive()
    with pytest.raises(libvirt.libvirtError, match="no domain with matching name 'twin'"):
        left.lookupByName("twin")
