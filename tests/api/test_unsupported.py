from __future__ import annotations

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.api.unsupported import MODULE, TABLE
from tests.api.test_connect import failure

ROWS = [(cls, name) for cls, names in TABLE.items() for name in names]


@pytest.mark.parametrize(("cls", "name"), ROWS, ids=".".join)
def test_it_exists_and_says_that_it_is_not_supported(cls: str, name: str) -> None:
    function, origin = TABLE[cls][name]
    owners = [libvirt, libvirt_qemu] if cls == MODULE else [getattr(libvirt, cls)]
    call = next(getattr(owner, name) for owner in owners if hasattr(owner, name))
    assert failure(call, None, 1, "a") == (
        libvirt.VIR_ERR_NO_SUPPORT,
        origin,
        f"this function is not supported by the connection driver: {function}",
    )
    assert call.__name__ == name


@pytest.mark.parametrize(
    ("method", "origin", "function"),
    [
        ("domainXMLFromNative", "DOMAIN", "virConnectDomainXMLFromNative"),
        ("findStoragePoolSources", "STORAGE", "virConnectFindStoragePoolSources"),
        ("listAllDevices", "NODEDEV", "virConnectListAllNodeDevices"),
        ("listAllNWFilters", "NWFILTER", "virConnectListAllNWFilters"),
        ("setKeepAlive", "DOMAIN", "virConnectSetKeepAlive"),
        ("changeBegin", "INTERFACE", "virInterfaceChangeBegin"),
    ],
)
def test_libvirts_own_answers(conn: libvirt.virConnect, method: str, origin: str, function: str) -> None:
    """Read off libvirt 9.0, where its driver does not support them either."""
    assert failure(getattr(conn, method), "x", "y", "z") == (
        libvirt.VIR_ERR_NO_SUPPORT,
        getattr(libvirt, f"VIR_FROM_{origin}"),
        f"this function is not supported by the connection driver: {function}",
    )


def test_an_unknown_name_is_an_attribute_error(conn: libvirt.virConnect) -> None:
    with pytest.raises(AttributeError):
        conn.nosuch  # type: ignore[attr-defined]  # noqa: B018
