"""A connection to the host's libvirt: where it is looked for, in which thread, and whose words its errors are."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
import threading
from typing import Any

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.driver.hosts import connection as connections
from pytest_embedvm.driver.hosts.connection import HostConnection
from pytest_embedvm.driver.hosts.hosts import Hosts
from pytest_embedvm.driver.uri import DriverName
from pytest_embedvm.errors import HostError, HostMissing, NoNetwork, OperationTimeout
from tests.fakes.libvirt import FakeLibvirt, libvirtError


@pytest.fixture
def libvirt(monkeypatch: pytest.MonkeyPatch) -> FakeLibvirt:
    """What `import libvirt` gives; root asks."""
    fake = FakeLibvirt()
    monkeypatch.setitem(sys.modules, "libvirt", fake)
    monkeypatch.delenv(connections.URI_VARIABLE, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return fake


@pytest.mark.parametrize(("user", "path"), [(0, "system"), (1000, "session")])
@pytest.mark.parametrize("kind", ["network", "secret", "storage"])
async def test_it_is_where_libvirt_itself_would_look(
    libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch, kind: DriverName, user: int, path: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    await HostConnection(kind).open()
    assert libvirt.tried == [f"{kind}:///{path}"]


async def test_an_older_client_knows_only_the_one_daemon(libvirt: FakeLibvirt) -> None:
    libvirt.refuses = {"network:///system"}
    host = HostConnection("network")
    await host.open()
    assert host.opened.uri == "qemu:///system"
    libvirt.refuses |= {"qemu:///system"}
    with pytest.raises(HostMissing, match="nobody is at network:///system") as raised:
        await HostConnection("network").open()
    assert (raised.value.code, raised.value.origin) == (ErrorNumber.SYSTEM_ERROR, ErrorDomain.RPC)


async def test_the_environment_says_where_else(libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDVM_HOST_URI", "qemu+ssh://elsewhere/system")
    await HostConnection("secret").open()
    assert libvirt.tried == ["qemu+ssh://elsewhere/system"]


async def test_it_is_opened_once_and_anew_when_it_has_died(libvirt: FakeLibvirt) -> None:
    host = HostConnection("network")
    assert await host.ask(lambda: host.opened.answer(1)) == 1
    assert await host.ask(lambda: host.opened.answer(2)) == 2
    (first,) = libvirt.opened
    assert threading.get_ident() not in first.threads
    first.alive = False
    await host.open()
    assert len(libvirt.opened) == 2
    await host.close()
    await host.close()
    assert libvirt.opened[1].closed


@pytest.mark.parametrize(
    ("code", "domain", "ours", "origin"),
    [
        (43, 19, ErrorNumber.NO_NETWORK, ErrorDomain.NETWORK),
        (98765, 4321, ErrorNumber.INTERNAL_ERROR, ErrorDomain.NONE),
    ],
    ids=["known", "from the future"],
)
@pytest.mark.usefixtures("libvirt")
async def test_its_errors_keep_code_domain_and_words(
    code: int, domain: int, ours: ErrorNumber, origin: ErrorDomain
) -> None:
    def question() -> None:
        raise libvirtError("no luck", code, domain)

    with pytest.raises(HostError) as raised:
        await HostConnection("network").ask(question)
    assert (raised.value.message, raised.value.code, raised.value.origin) == ("no luck", ours, origin)
    copy: HostError = pickle.loads(pickle.dumps(raised.value))
    assert (type(copy), copy.message, copy.code, copy.origin) == (HostError, "no luck", ours, origin)


@pytest.mark.usefixtures("libvirt")
async def test_our_own_errors_pass() -> None:
    def question() -> None:
        raise NoNetwork("x")

    with pytest.raises(NoNetwork):
        await HostConnection("network").ask(question)


async def test_one_that_does_not_answer_is_given_up(libvirt: FakeLibvirt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HOST_TIMEOUT_S", 0.2)
    goes_on = threading.Event()
    host = HostConnection("storage")
    with pytest.raises(
        OperationTimeout, match=r"the storage driver of the host's libvirt \(storage:///system\) did not"
    ):
        await host.ask(goes_on.wait)
    goes_on.set()
    assert await host.ask(lambda: 3) == 3
    assert len(libvirt.opened) == 2


async def test_without_libvirt_python_the_host_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(HostMissing, match=r"install pytest-embedvm\[host\]") as raised:
        await HostConnection("network").open()
    assert raised.value.code is ErrorNumber.NO_SUPPORT


@pytest.mark.parametrize("known", [True, False], ids=["the user's own", "nobody's"])
def test_errors_are_not_written_to_standard_error_unless_somebody_else_has_a_say(
    monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    fake = FakeLibvirt()
    monkeypatch.delitem(sys.modules, "libvirt", raising=False)
    if known:
        monkeypatch.setitem(sys.modules, "libvirt", fake)

    def found(name: str) -> Any:
        return fake

    monkeypatch.setattr(importlib, "import_module", found)
    connections.library()
    assert len(fake.handlers) == (0 if known else 1)
    for handler in fake.handlers:
        handler(None, None)


async def test_those_of_a_root_are_connected_to_when_they_are_wanted(libvirt: FakeLibvirt) -> None:
    hosts = Hosts()
    await hosts.open([])
    assert libvirt.tried == []
    await hosts.open(["secret", "network"])
    await hosts.open(["secret"])
    assert libvirt.tried == ["secret:///system", "network:///system"]
    await hosts.cleanup()
    assert all(connection.closed for connection in libvirt.opened)
