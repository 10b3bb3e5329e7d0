"""A domain as another root can start it: what runs, without what only this root and this run have."""

from __future__ import annotations

from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.domain.sections.firmware import STORE


def migratable(domain: Domain, host: Host, name: str | None = None) -> Domain:
    """DOMAIN without its id, the ports it was given, and the paths that HOST's root chose for it.

    Machine type, addresses, MAC addresses and uuid stay: with them the guest finds the same machine.

    :param name: the name it is to have from now on.
    """
    # libvirt: qemuDomainDefFormatBufInternal with VIR_DOMAIN_XML_MIGRATABLE
    copy = domain.copy()
    copy.id = None
    for device in copy.devices.all:
        device.forget_live()
    nvram = copy.os.nvram
    if nvram is not None and nvram.path == host.path("nvram", domain.name, STORE):
        nvram.path = None
    copy.name = name or copy.name
    return copy
