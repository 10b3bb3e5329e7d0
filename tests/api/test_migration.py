"""What libvirt's public layer and its QEMU driver say to calls that cannot be: measured on libvirt 9.0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.libvirt import virConnect, virDomain

P2P = libvirt.VIR_MIGRATE_PEER2PEER
URI = "qemu:///embed?root=/elsewhere"
DIRECT = "argument unsupported: direct migration is not supported by the source host"


def bad(flag: int) -> Callable[[virDomain, virConnect], Any]:
    return lambda domain, conn: domain.migrate3(conn, {}, flag)


def params(**values: Any) -> Callable[[virDomain, virConnect], Any]:
    return lambda domain, conn: domain.migrate3(conn, values)


@pytest.mark.parametrize(
    ("call", "code", "origin", "message"),
    [
        (lambda d, _: d.migrate(None), 6, 20, "invalid connection pointer in virDomainMigrate"),
        (lambda d, _: d.migrate2(None), 6, 20, "invalid connection pointer in virDomainMigrate2"),
        (lambda d, _: d.migrate3(None, {}), 6, 20, "invalid connection pointer in virDomainMigrate3"),
        (bad(P2P), 8, 20, "use virDomainMigrateToURI3 for peer-to-peer migration"),
        (bad(1 << 28), 8, 10, "unsupported flags (0x10000000) in function qemuDomainMigrateBegin3Params"),
        (
            bad(libvirt.VIR_MIGRATE_TUNNELLED),
            8,
            20,
            "cannot perform tunnelled migration without using peer2peer flag",
        ),
        (
            bad(libvirt.VIR_MIGRATE_POSTCOPY | libvirt.VIR_MIGRATE_TLS),
            8,
            10,
            "unsupported flags (0x18000) in function qemuDomainMigrateBegin3Params",
        ),
        (
            bad(libvirt.VIR_MIGRATE_NON_SHARED_DISK | libvirt.VIR_MIGRATE_NON_SHARED_INC),
            8,
            20,
            "Flags 'VIR_MIGRATE_NON_SHARED_DISK' and 'VIR_MIGRATE_NON_SHARED_INC' are mutually exclusive",
        ),
        (params(foo="x"), 74, 0, "argument unsupported: parameter 'foo' not supported"),
        (
            params(migrate_uri="foo:bar"),
            74,
            10,
            "argument unsupported: unsupported scheme foo in migration URI foo:bar",
        ),
        (params(bandwidth=2**44), 82, 10, "numerical overflow: bandwidth must be less than 8796093022208"),
        (params(**{"auto_converge.initial": 3}), 74, 10, "argument unsupported: Turn auto convergence on to tune it"),
        (lambda d, _: d.migrateToURI(URI), 74, 20, DIRECT),
        (lambda d, _: d.migrateToURI2(URI), 74, 20, DIRECT),
        (lambda d, _: d.migrateToURI3(URI, {}), 74, 20, DIRECT),
        (lambda d, _: d.migrateToURI3(None, {}), 74, 20, DIRECT),
        (lambda d, _: d.migrateToURI(None), 8, 20, "duri in virDomainMigrateToURI must not be NULL"),
        (lambda d, _: d.migrateToURI3(None, {}, P2P), 8, 20, "dconnuri in virDomainMigrateToURI3 must not be NULL"),
        (
            lambda d, _: d.migrateToURI3(URI, {}, P2P | 1 << 28),
            8,
            10,
            "unsupported flags (0x10000000) in function qemuDomainMigratePerform3Params",
        ),
        (lambda d, _: d.jobStats(64), 8, 10, "unsupported flags (0x40) in function qemuDomainGetJobStats"),
        (
            lambda d, _: d.migrateSetMaxSpeed(1, 2),
            8,
            10,
            "unsupported flags (0x2) in function qemuDomainMigrateSetMaxSpeed",
        ),
        (lambda d, _: d.abortJobFlags(2), 8, 10, "unsupported flags (0x2) in function qemuDomainAbortJobFlags"),
    ],
)
def test_what_is_refused(
    conn: virConnect, call: Callable[[virDomain, virConnect], Any], code: int, origin: int, message: str
) -> None:
    domain = conn.createXML("a")
    with pytest.raises(libvirt.libvirtError) as caught:
        call(domain, conn)
    error = caught.value
    assert (error.get_error_code(), error.get_error_domain(), str(error)) == (code, ErrorDomain(origin), message)


@pytest.mark.parametrize("values", [None, [], {"destination_name": 3}, {"bandwidth": "x"}])
def test_params_of_another_type(conn: virConnect, values: Any) -> None:
    domain = conn.createXML("a")
    with pytest.raises(TypeError):
        domain.migrate3(conn, values)


def test_a_destination_that_only_reads(conn: virConnect) -> None:
    domain = conn.createXML("a")
    with pytest.raises(libvirt.libvirtError, match="read only access prevents virDomainMigrate3"):
        domain.migrate3(libvirt.openReadOnly("qemu:///embed?root=/b"), {})
