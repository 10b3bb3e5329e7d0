from __future__ import annotations

import gc
import threading
import uuid

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.loop import loop_thread
from tests.api.conftest import URI
from tests.fakes.driver import UUID, FakeDriver


def failure(call: object, *arguments: object) -> tuple[int, int, str]:
    """Code, error domain and sentence of the error that CALL raises."""
    with pytest.raises(libvirt.libvirtError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.err[:3]  # type: ignore[index]


def test_opens_what_the_uri_says(conn: libvirt.virConnect) -> None:
    assert conn.getURI() == URI
    assert conn.getType() == "QEMU"
    assert (conn.isAlive(), conn.isEncrypted(), conn.isSecure()) == (1, 0, 1)
    assert conn.getLibVersion() == libvirt.getVersion()


@pytest.mark.parametrize("opening", [libvirt.open, libvirt.openReadOnly, lambda n: libvirt.openAuth(n, [[], None], 0)])
def test_no_uri_is_no_root(opening: object, drivers: list[FakeDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", URI)
    code, origin, message = failure(opening, None)
    assert (code, origin) == (libvirt.VIR_ERR_NO_CONNECT, libvirt.VIR_FROM_NONE)
    assert "qemu:///embed?root=/absolute/path" in message
    assert drivers == []


def test_a_uri_that_is_no_string_is_a_type_error(drivers: list[FakeDriver]) -> None:
    with pytest.raises(TypeError, match="must be str or None, not int"):
        libvirt.open(3)  # type: ignore[arg-type]


def test_open_auth_checks_its_flags(drivers: list[FakeDriver]) -> None:
    code, _, message = failure(libvirt.openAuth, URI, [[], None], 1 << 9)
    assert (code, message) == (libvirt.VIR_ERR_INVALID_ARG, "unsupported flags (0x200) in function qemuConnectOpen")
    libvirt.openAuth(URI, None, libvirt.VIR_CONNECT_NO_ALIASES).close()


def test_a_connection_is_a_context_manager(drivers: list[FakeDriver]) -> None:
    with libvirt.open(URI) as conn:
        domain = conn.createXML("a")
    assert drivers[0].closings == 1
    assert failure(conn.close)[2] == "invalid connection pointer in virConnectClose"
    assert failure(conn.isAlive) == (
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_FROM_DOMAIN,
        "invalid connection pointer in virConnectIsAlive",
    )
    assert failure(domain.state)[2] == "invalid connection pointer in virDomainGetState"
    assert domain.name() == "a"


def test_closing_from_two_threads_closes_once(conn: libvirt.virConnect, driver: FakeDriver) -> None:
    results: list[object] = []

    def close() -> None:
        try:
            results.append(conn.close())
        except libvirt.libvirtError as error:
            results.append(error.get_error_code())

    threads = [threading.Thread(target=close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0] + [libvirt.VIR_ERR_INVALID_CONN] * 7  # type: ignore[type-var]
    assert driver.closings == 1


def test_a_connection_that_nobody_holds_is_closed(drivers: list[FakeDriver]) -> None:
    conn = libvirt.open(URI)
    domain = conn.createXML("a")
    del conn
    gc.collect()
    assert domain.isActive() == 1  # the domain holds it
    del domain
    gc.collect()

    async def settled() -> int:
        return drivers[0].closings

    assert loop_thread().run(settled()) == 1


def test_lookup(conn: libvirt.virConnect) -> None:
    domain = conn.createXML("a")
    for found in (
        conn.lookupByID(domain.ID()),
        conn.lookupByName("a"),
        conn.lookupByUUID(UUID.bytes),
        conn.lookupByUUID(bytearray(UUID.bytes)),
        conn.lookupByUUIDString(str(UUID)),
        conn.lookupByUUIDString(UUID.hex.upper()),
    ):
        assert (found.name(), found.UUID()) == ("a", UUID.bytes)
        assert found.connect() is conn


@pytest.mark.parametrize(
    ("method", "argument", "code", "message"),
    [
        ("lookupByID", -1, "INVALID_ARG", "id in virDomainLookupByID must be zero or greater"),
        ("lookupByID", 99, "NO_DOMAIN", "Domain not found: no domain with matching id 99"),
        ("lookupByName", "x", "NO_DOMAIN", "Domain not found: no domain with matching name 'x'"),
        ("lookupByName", None, "INVALID_ARG", "name in virDomainLookupByName must not be NULL"),
        ("lookupByUUIDString", None, "INVALID_ARG", "uuidstr in virDomainLookupByUUIDString must not be NULL"),
        ("lookupByUUIDString", "{11111111-1111-1111-1111-111111111111}", "INVALID_ARG", "Invalid UUID"),
        ("lookupByUUIDString", "1_" * 16, "INVALID_ARG", "Invalid UUID"),
        ("lookupByUUIDString", "", "INVALID_ARG", "Invalid UUID"),
        ("lookupByUUID", b"123", "INVALID_ARG", "uuid in virDomainLookupByUUID must be 16 bytes, not 3"),
        ("createXML", None, "INVALID_ARG", "xmlDesc in virDomainCreateXML must not be NULL"),
        ("createLinux", None, "INVALID_ARG", "xmlDesc in virDomainCreateLinux must not be NULL"),
        ("defineXML", None, "INVALID_ARG", "xml in virDomainDefineXML must not be NULL"),
        ("defineXMLFlags", None, "INVALID_ARG", "xml in virDomainDefineXMLFlags must not be NULL"),
        ("getMaxVcpus", "xen", "INVALID_ARG", "invalid argument: unknown type 'xen'"),
    ],
)
def test_arguments_are_checked(
    conn: libvirt.virConnect, method: str, argument: object, code: str, message: str
) -> None:
    found = failure(getattr(conn, method), argument)
    assert (found[0], found[2]) == (getattr(libvirt, f"VIR_ERR_{code}"), message)


@pytest.mark.parametrize("method", ["lookupByName", "lookupByUUIDString", "createXML", "defineXML"])
def test_text_of_another_type_is_a_type_error(conn: libvirt.virConnect, method: str) -> None:
    with pytest.raises(TypeError, match="must be str or None, not bytes"):
        getattr(conn, method)(b"a")


@pytest.mark.parametrize(
    ("call", "unknown", "function"),
    [
        (lambda c, f: c.createXML("a", f), 0xFFFFFFCC, "qemuDomainCreateXML"),
        (lambda c, f: c.defineXMLFlags("a", f), 0xFFFFFFFE, "qemuDomainDefineXMLFlags"),
        (lambda c, f: c.listAllDomains(f), 0xFFFF0000, "qemuConnectListAllDomains"),
        (lambda c, f: c.domainXMLToNative("qemu-argv", "a", f), 0xFFFFFFFF, "qemuConnectDomainXMLToNative"),
        (lambda c, f: c.getDomainCapabilities(flags=f), 0xFFFFFFFF, "qemuConnectGetDomainCapabilities"),
    ],
)
def test_flags_are_checked_first(conn: libvirt.virConnect, call: object, unknown: int, function: str) -> None:
    """Which bits are known was read off libvirt 9.0, by setting all of them."""
    for flags in (0xFFFFFFFF, -1):
        assert failure(call, conn, flags) == (
            libvirt.VIR_ERR_INVALID_ARG,
            libvirt.VIR_FROM_QEMU,
            f"unsupported flags (0x{unknown:x}) in function {function}",
        )
    assert conn.listAllDomains() == []
    with pytest.raises(TypeError):
        call(conn, None)  # type: ignore[operator]


def test_lists(conn: libvirt.virConnect) -> None:
    running, defined = conn.createXML("a"), conn.defineXML("b")
    assert conn.listDomainsID() == [running.ID()]
    assert conn.listDefinedDomains() == ["b"]
    assert (conn.numOfDomains(), conn.numOfDefinedDomains()) == (1, 1)
    assert [d.name() for d in conn.listAllDomains()] == ["a", "b"]
    inactive = conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_INACTIVE)
    assert [d.UUIDString() for d in inactive] == [defined.UUIDString()] == [str(uuid.uuid5(UUID, "b"))]


def test_native(conn: libvirt.virConnect) -> None:
    assert conn.domainXMLToNative("qemu-argv", "a") == "qemu a"
    assert failure(conn.domainXMLToNative, "bogus", "a")[2] == "invalid argument: unsupported config type bogus"
    assert failure(conn.domainXMLToNative, None, "a")[2] == (
        "nativeFormat in virConnectDomainXMLToNative must not be NULL"
    )


def test_get_info_has_libvirts_eight_fields(conn: libvirt.virConnect) -> None:
    model, memory, cpus, mhz, nodes, sockets, cores, threads = conn.getInfo()
    assert isinstance(model, str)
    assert memory > 0  # type: ignore[operator]
    assert mhz >= 0  # type: ignore[operator]
    assert nodes * sockets * cores * threads == cpus  # type: ignore[operator]


def test_max_vcpus(conn: libvirt.virConnect) -> None:
    assert conn.getMaxVcpus(None) == conn.getMaxVcpus("QEMU") == 16


def test_close_callbacks_are_accepted(conn: libvirt.virConnect) -> None:
    assert conn.registerCloseCallback(lambda *_: None, None) == 0
    conn.unregisterCloseCallback()


class TestReadOnly:
    @pytest.fixture
    def conn(self, drivers: list[FakeDriver]) -> object:
        with libvirt.openReadOnly(URI) as connection:
            yield connection

    @pytest.mark.parametrize(
        ("call", "function"),
        [
            (lambda c, _: c.createXML("b", 1 << 20), "virDomainCreateXML"),
            (lambda c, _: c.defineXML("b"), "virDomainDefineXML"),
            (lambda c, _: c.defineXMLFlags("b"), "virDomainDefineXMLFlags"),
            (lambda c, _: c.domainXMLToNative("x", "y"), "virConnectDomainXMLToNative"),
            (lambda _, d: d.create(), "virDomainCreate"),
            (lambda _, d: d.createWithFlags(), "virDomainCreateWithFlags"),
            (lambda _, d: d.destroy(), "virDomainDestroy"),
            (lambda _, d: d.destroyFlags(), "virDomainDestroyFlags"),
            (lambda _, d: d.shutdown(), "virDomainShutdown"),
            (lambda _, d: d.shutdownFlags(), "virDomainShutdownFlags"),
            (lambda _, d: d.reboot(), "virDomainReboot"),
            (lambda _, d: d.reset(), "virDomainReset"),
            (lambda _, d: d.suspend(), "virDomainSuspend"),
            (lambda _, d: d.resume(), "virDomainResume"),
            (lambda _, d: d.undefine(), "virDomainUndefine"),
            (lambda _, d: d.undefineFlags(), "virDomainUndefineFlags"),
            (lambda _, d: d.rename("b"), "virDomainRename"),
            (lambda _, d: d.setMetadata(1, "t", None, None), "virDomainSetMetadata"),
            (lambda c, d: d.openConsole(None, c.newStream()), "virDomainOpenConsole"),
        ],
    )
    def test_what_writes_is_refused(
        self, conn: libvirt.virConnect, drivers: list[FakeDriver], call: object, function: str
    ) -> None:
        machine = drivers[0]._add("a", persistent=True)
        assert failure(call, conn, conn.lookupByName("a")) == (
            libvirt.VIR_ERR_OPERATION_DENIED,
            libvirt.VIR_FROM_DOMAIN,
            f"operation forbidden: read only access prevents {function}",
        )
        assert machine.orders == []

    def test_what_reveals_passwords_is_refused(self, conn: libvirt.virConnect, drivers: list[FakeDriver]) -> None:
        drivers[0]._add("a", persistent=True)
        domain = conn.lookupByName("a")
        for flags in (libvirt.VIR_DOMAIN_XML_SECURE, libvirt.VIR_DOMAIN_XML_MIGRATABLE):
            assert failure(domain.XMLDesc, flags)[2] == "operation forbidden: virDomainGetXMLDesc with secure flag"
        assert domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE).startswith("<domain>")
