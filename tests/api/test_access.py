"""The access policy: every call passes through it."""

from __future__ import annotations

import inspect

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.unsupported import TABLE
from pytest_embedvm.driver import access
from tests.api.conftest import URI
from tests.api.test_connect import failure
from tests.fakes.driver import FakeDriver


class Denying:
    """Lets through what is in `allowed`, and remembers what it was asked."""

    name = "denying"

    def __init__(self, *allowed: str) -> None:
        self.allowed = allowed
        self.asked: list[tuple[str, bool]] = []

    def allows(self, function: str, *, writes: bool) -> bool:
        self.asked.append((function, writes))
        return function in self.allowed


@pytest.fixture
def policies(monkeypatch: pytest.MonkeyPatch) -> dict[str, access.Policy]:
    """The registered policies, as they were again after the test."""
    monkeypatch.setattr(access, "_policies", dict(access._policies))
    return access._policies


@pytest.fixture
def denying(policies: dict[str, access.Policy], monkeypatch: pytest.MonkeyPatch) -> Denying:
    """The policy of what is opened from here on."""
    policy = Denying("virConnectOpen", "virDomainCreateXML")
    access.register(policy)
    monkeypatch.setattr(access, "EMBED", policy.name)
    return policy


def test_an_embedded_driver_s_policy_is_none(conn: libvirt.virConnect) -> None:
    assert conn._session.policy.name == "none"
    assert conn.numOfDomains() == 0


def test_a_policy_that_denies_is_heard_before_the_driver(denying: Denying, drivers: list[FakeDriver]) -> None:
    with libvirt.open(URI) as conn:
        domain = conn.createXML("a")
        assert failure(conn.listAllDomains) == (
            libvirt.VIR_ERR_ACCESS_DENIED,
            libvirt.VIR_FROM_ACCESS,
            "access denied: 'denying' denied access to virConnectListAllDomains",
        )
        assert failure(domain.destroy)[0] == libvirt.VIR_ERR_ACCESS_DENIED
        assert failure(lambda: conn.defineXML("b"))[0] == libvirt.VIR_ERR_ACCESS_DENIED
        assert drivers[0].all[0].orders == [("create", 0)]
        assert len(drivers[0].all) == 1
    assert denying.asked[:2] == [("virConnectOpen", True), ("virDomainCreateXML", True)]


def test_what_is_open_can_be_closed(denying: Denying, drivers: list[FakeDriver]) -> None:
    assert libvirt.open(URI).close() == 0
    assert drivers[0].closings == 1


def test_the_opening_can_be_denied(denying: Denying, drivers: list[FakeDriver]) -> None:
    denying.allowed = ()
    for call, writes in ((libvirt.open, True), (libvirt.openReadOnly, False)):
        code, _, message = failure(lambda call=call: call(URI))
        assert (code, message) == (
            libvirt.VIR_ERR_ACCESS_DENIED,
            "access denied: 'denying' denied access to virConnectOpen",
        )
        assert denying.asked[-1] == ("virConnectOpen", writes)
    assert drivers == []


def test_a_policy_that_nobody_registered_is_a_clear_error(
    policies: dict[str, access.Policy], drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "EMBED", "polkit")
    assert failure(lambda: libvirt.open(URI)) == (
        libvirt.VIR_ERR_INTERNAL_ERROR,
        libvirt.VIR_FROM_ACCESS,
        "internal error: No access manager registered with the name 'polkit'; registered: none",
    )
    policies.clear()
    assert failure(lambda: libvirt.open(URI))[2].endswith("registered: nothing")
    assert drivers == []


#: What the object itself knows, or the thread, or is made of other calls; and the end of a connection.
LOCAL = {
    "virConnect": {"close", "virConnGetLastError", "virConnResetLastError"},
    "virDomain": {"connect", "name", "UUID", "UUIDString"},
    "virStoragePool": {"connect", "name", "UUID", "UUIDString"},
    "virStorageVol": {"connect", "name", "key"},
    "virStream": {"connect", "recvAll", "sendAll", "sparseRecvAll", "sparseSendAll"},
}


@pytest.mark.parametrize("name", LOCAL)
def test_every_call_passes_through_the_policy(name: str) -> None:
    cls = getattr(libvirt, name)
    methods = {n: m for n, m in inspect.getmembers(cls, inspect.isfunction) if not n.startswith("_")}
    passing = {n for n, m in methods.items() if hasattr(m, "__wrapped__")}
    assert set(methods) - passing - set(TABLE.get(name, {})) == LOCAL[name]
