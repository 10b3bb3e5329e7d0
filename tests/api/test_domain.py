from __future__ import annotations

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from tests.api.test_connect import failure
from tests.fakes.driver import UUID, FakeDriver

GONE = f"Domain not found: no domain with matching uuid '{UUID}' (a)"


@pytest.fixture
def domain(conn: libvirt.virConnect) -> libvirt.virDomain:
    return conn.createXML("a")


@pytest.fixture
def defined(conn: libvirt.virConnect) -> libvirt.virDomain:
    return conn.defineXML("a")


def test_what_it_is(domain: libvirt.virDomain) -> None:
    assert (domain.ID(), domain.name(), domain.UUIDString(), domain.OSType()) == (1, "a", str(UUID), "hvm")
    assert domain.info() == [libvirt.VIR_DOMAIN_RUNNING, 262144, 131072, 2, 310000000]
    assert domain.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED]
    assert (domain.isActive(), domain.isPersistent(), domain.isUpdated(), domain.autostart()) == (1, 0, 0, 0)
    assert (domain.maxMemory(), domain.maxVcpus()) == (262144, 4)
    assert (domain.hasManagedSaveImage(), domain.hasCurrentSnapshot()) == (0, 0)


def test_each_lookup_makes_another_object(domain: libvirt.virDomain) -> None:
    """As libvirt-python's: compare uuids."""
    again = domain.connect().lookupByName("a")
    assert again != domain
    assert again.UUID() == domain.UUID()


def test_a_domain_outlives_its_machine(domain: libvirt.virDomain) -> None:
    assert domain.destroy() == 0
    assert (domain.name(), domain.UUID(), domain.ID()) == ("a", UUID.bytes, -1)
    for call in (domain.info, domain.state, domain.resume, domain.destroy, domain.isActive, domain.XMLDesc,
                 domain.OSType, domain.autostart):  # fmt: skip
        assert failure(call) == (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_FROM_QEMU, GONE)


def test_a_domain_follows_its_machine_to_the_next_start(defined: libvirt.virDomain) -> None:
    assert (defined.ID(), defined.isActive(), defined.isPersistent()) == (-1, 0, 1)
    defined.create()
    assert (defined.ID(), defined.isActive()) == (1, 1)


@pytest.mark.parametrize("autostart", [1, 0])
def test_nothing_starts_by_itself_and_it_is_said_why(defined: libvirt.virDomain, autostart: int) -> None:
    assert failure(lambda: defined.setAutostart(autostart)) == (
        libvirt.VIR_ERR_OPERATION_UNSUPPORTED,
        libvirt.VIR_FROM_QEMU,
        "Operation not supported: domain 'a' cannot be started automatically: an embedded driver is there only while "
        "an application has the root open; start the domain when you have opened it",
    )
    assert defined.autostart() == 0


def test_a_transient_domain_has_no_autostart_to_set(domain: libvirt.virDomain) -> None:
    assert failure(lambda: domain.setAutostart(1)) == (
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_FROM_QEMU,
        "Requested operation is not valid: cannot set autostart for transient domain",
    )


def test_a_rename_does_not_reach_the_object(defined: libvirt.virDomain) -> None:
    """libvirt's keeps the old name too."""
    assert defined.rename("b") == 0
    assert defined.name() == "a"
    assert defined.connect().lookupByName("b").UUID() == defined.UUID()


@pytest.mark.parametrize(
    ("call", "order"),
    [
        (lambda d: d.create(), ("create", 0)),
        (lambda d: d.createWithFlags(3), ("create", 3)),
        (lambda d: d.destroy(), ("destroy", 0)),
        (lambda d: d.destroyFlags(1), ("destroy", 1)),
        (lambda d: d.shutdown(), ("shutdown", 0)),
        (lambda d: d.shutdownFlags(2), ("shutdown", 2)),
        (lambda d: d.reboot(1), ("reboot", 1)),
        (lambda d: d.reset(), ("reset",)),
        (lambda d: d.undefine(), ("undefine", 0)),
        (lambda d: d.undefineFlags(4), ("undefine", 4)),
        (lambda d: d.setMetadata(1, "t", None, None), ("set_metadata", 1, "t", None, None, 0)),
        (lambda d: d.setMetadata(2, None, None, "urn:x", 2), ("set_metadata", 2, None, None, "urn:x", 2)),
    ],
)
def test_orders_reach_the_machine(
    defined: libvirt.virDomain, driver: FakeDriver, call: object, order: tuple[object, ...]
) -> None:
    machine = driver.all[0]
    assert call(defined) == 0  # type: ignore[operator]
    assert machine.orders[-1] == order


@pytest.mark.parametrize(
    ("call", "unknown", "function"),
    [
        (lambda d, f: d.createWithFlags(f), 0xFFFFFFD0, "qemuDomainCreateWithFlags"),
        (lambda d, f: d.destroyFlags(f), 0xFFFFFFFC, "qemuDomainDestroyFlags"),
        (lambda d, f: d.shutdownFlags(f), 0xFFFFFFFC, "qemuDomainShutdownFlags"),
        (lambda d, f: d.reboot(f), 0xFFFFFFFC, "qemuDomainReboot"),
        (lambda d, f: d.reset(f), 0xFFFFFFFF, "qemuDomainReset"),
        (lambda d, f: d.undefineFlags(f), 0xFFFFFF80, "qemuDomainUndefineFlags"),
        (lambda d, f: d.state(f), 0xFFFFFFFF, "qemuDomainGetState"),
        (lambda d, f: d.XMLDesc(f), 0xFFFFFFF0, "qemuDomainGetXMLDesc"),
        (lambda d, f: d.setMetadata(0, "x", None, None, f), 0xFFFFFFFC, "qemuDomainSetMetadata"),
        (lambda d, f: d.rename("b", f), 0xFFFFFFFF, "qemuDomainRename"),
        (lambda d, f: d.openConsole(None, d.connect().newStream(), f), 0xFFFFFFFC, "qemuDomainOpenConsole"),
        (lambda d, f: d.hasManagedSaveImage(f), 0xFFFFFFFF, "qemuDomainHasManagedSaveImage"),
        (lambda d, f: d.hasCurrentSnapshot(f), 0xFFFFFFFF, "qemuDomainHasCurrentSnapshot"),
        (lambda d, f: libvirt_qemu.qemuMonitorCommand(d, "{}", f), 0xFFFFFFFE, "qemuDomainQemuMonitorCommandWithFiles"),
        (lambda d, f: libvirt_qemu.qemuAgentCommand(d, "{}", 1, f), 0xFFFFFFFF, "qemuDomainQemuAgentCommand"),
    ],
)
def test_flags_are_checked_first(
    defined: libvirt.virDomain, driver: FakeDriver, call: object, unknown: int, function: str
) -> None:
    """Which bits are known was read off libvirt 9.0, by setting all of them."""
    before = list(driver.all[0].orders)
    assert failure(call, defined, 0xFFFFFFFF) == (
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_FROM_QEMU,
        f"unsupported flags (0x{unknown:x}) in function {function}",
    )
    assert driver.all[0].orders == before


EXCLUSIVE = "Flags 'VIR_DOMAIN_AFFECT_LIVE' and 'VIR_DOMAIN_AFFECT_CONFIG' are mutually exclusive"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: d.metadata(0, None, 3), EXCLUSIVE),
        (lambda d: d.metadata(0, None, 4), "unsupported flags (0x4) in function virDomainObjGetMetadata"),
        (lambda d: d.metadata(9, None), "invalid argument: unknown metadata type '9'"),
        (lambda d: d.metadata(2, None), "uri in virDomainGetMetadata must not be NULL"),
        (lambda d: d.metadata(1, "x"), "uri in virDomainGetMetadata must be NULL"),
        (lambda d: d.setMetadata(1, "a\nb", None, None), "metadata title can't contain newlines"),
        (lambda d: d.setMetadata(1, "a", "k", None), "key in virDomainSetMetadata must be NULL"),
        (lambda d: d.setMetadata(0, "x", "k", "u"), "uri in virDomainSetMetadata must be NULL"),
        (lambda d: d.setMetadata(2, "<a/>", None, None), "uri in virDomainSetMetadata must not be NULL"),
        (lambda d: d.setMetadata(2, "<a/>", None, "urn:x"), "key in virDomainSetMetadata must not be NULL"),
        (lambda d: d.setMetadata(9, "<a/>", None, "urn:x"), "invalid argument: unknown metadata type '9'"),
        (lambda d: d.rename(None), "new_name in virDomainRename must not be NULL"),
        (lambda d: d.rename(""), "string new_name in virDomainRename must not be empty"),
        (lambda d: d.vcpusFlags(7), EXCLUSIVE),
        (lambda d: libvirt_qemu.qemuMonitorCommand(d, None), "cmd in virDomainQemuMonitorCommand must not be NULL"),
    ],
)
def test_arguments_are_checked(defined: libvirt.virDomain, call: object, message: str) -> None:
    assert failure(call, defined) == (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_FROM_DOMAIN, message)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: d.XMLDesc(None),
        lambda d: d.state("0"),
        lambda d: d.metadata("title", None),
        lambda d: d.connect().newStream(None),
        lambda d: d.rename(b"b"),
    ],
)
def test_what_has_another_type_is_a_type_error(defined: libvirt.virDomain, call: object) -> None:
    with pytest.raises(TypeError):
        call(defined)  # type: ignore[operator]


def test_metadata(domain: libvirt.virDomain) -> None:
    assert failure(domain.metadata, libvirt.VIR_DOMAIN_METADATA_TITLE, None) == (
        libvirt.VIR_ERR_NO_DOMAIN_METADATA,
        libvirt.VIR_FROM_DOMAIN,
        "metadata not found: Requested metadata element is not present",
    )
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, "t", None, None)
    assert domain.metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None) == "t"


def test_xml(domain: libvirt.virDomain) -> None:
    flags = libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE
    assert domain.XMLDesc(flags) == "<domain><name>a</name><!-- 3 --></domain>"


def test_vcpus_of_a_running_machine(domain: libvirt.virDomain) -> None:
    assert domain.vcpusFlags() == domain.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_LIVE) == 2
    assert domain.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_MAXIMUM) == 4
    assert failure(domain.vcpusFlags, libvirt.VIR_DOMAIN_VCPU_CONFIG)[2] == (
        "Requested operation is not valid: transient domains do not have any persistent config"
    )


def test_vcpus_of_a_definition(defined: libvirt.virDomain) -> None:
    assert defined.vcpusFlags() == defined.vcpusFlags(libvirt.VIR_DOMAIN_VCPU_CONFIG) == 2
    not_running = "Requested operation is not valid: domain is not running"
    assert failure(defined.vcpusFlags, libvirt.VIR_DOMAIN_VCPU_LIVE)[2] == not_running
    assert failure(defined.maxVcpus)[2] == not_running


def test_passthrough(domain: libvirt.virDomain) -> None:
    hmp = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    assert libvirt_qemu.qemuMonitorCommand(domain, "info status", hmp) == "info status 1"
    assert libvirt_qemu.qemuAgentCommand(domain, "{}", -2, 0) == "{} -2 0"
    assert failure(libvirt_qemu.qemuAgentCommand, domain, "{}", -5, 0)[2] == (
        "invalid argument: guest agent timeout '-5' is less than the minimum '-2'"
    )


def test_a_mistake_of_the_drivers_is_an_internal_error_with_its_cause(conn: libvirt.virConnect) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        conn.createXML("<not a name>")
    assert caught.value.get_error_code() == libvirt.VIR_ERR_INTERNAL_ERROR
    assert str(caught.value) == "internal error: ZeroDivisionError: a mistake of the driver's"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_refusal_drags_no_chain_behind_it(conn: libvirt.virConnect) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        conn.lookupByName("x")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
