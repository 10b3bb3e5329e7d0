"""libvirt's own answers (9.0.0, qemu:///embed, QEMU 7.2), one row each: code, error domain, sentence.

The operations are ours: a root of its own, a domain `a` that is defined, one that runs, or none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.domain.devices import KINDS

UUID = "11111111-1111-1111-1111-111111111111"
OTHER = "22222222-2222-2222-2222-222222222222"
GONE = f"Domain not found: no domain with matching uuid '{UUID}' (a)"

OS = "<os><type arch='x86_64' machine='q35'>hvm</type></os>"
BASE = f"<name>a</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>{OS}"


def domain(body: str = "", old: str = "", new: str = "", kind: str = "qemu") -> str:
    """The XML of a small domain with BODY in it, and OLD replaced by NEW."""
    return (
        f"<domain type='{kind}'>{BASE}{body}</domain>".replace(old, new)
        if old
        else (f"<domain type='{kind}'>{BASE}{body}</domain>")
    )


def devices(device: str) -> str:
    return domain(f"<devices>{device}</devices>")


def disk(target: str = "<target dev='vda' bus='virtio'/>", source: str = "", more: str = "", kind: str = "disk") -> str:
    return devices(f"<disk type='file' device='{kind}'><driver name='qemu' type='raw'/>{source}{target}{more}</disk>")


def lookups(name: str, *arguments: Any) -> Callable[[Any], Any]:
    return lambda conn: getattr(conn, name)(*arguments)


#: What createXML says to an XML: label, XML, code, error domain, sentence.
XML = [
    ("''", "", "XML_DETAIL", "DOMAIN", "(domain_definition):1: Document is empty\n(null)\n^"),
    (
        "'not xml'",
        "not xml",
        "XML_DETAIL",
        "DOMAIN",
        "(domain_definition):1: Start tag expected, '<' not found\nnot xml\n^",
    ),
    (
        "mismatched tag",
        "<domain type='qemu'><name>a</nam></domain>",
        "XML_DETAIL",
        "DOMAIN",
        "(domain_definition):1: Opening and ending tag mismatch: name line 1 and nam\n"
        "<domain type='qemu'><name>a</nam></domain>\n---------------------------------^",
    ),
    ("wrong root element", "<network/>", "XML_ERROR", "XML",
     "XML error: expecting root element of 'domain', not 'network'"),
    ("type='bogus'", domain(kind="bogus"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: invalid domain type bogus"),
    ("type='xen'", domain(kind="xen"), "CONFIG_UNSUPPORTED", "QEMU",
     "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support virt type 'xen'"),
    ("no name", domain(old="<name>a</name>"), "NO_NAME", "DOMAIN", "missing name information"),
    ("empty name", domain(old="<name>a</name>", new="<name/>"), "NO_NAME", "DOMAIN", "missing name information"),
    ("memory 'abc'", domain(old=">64<", new=">abc<"), "XML_ERROR", "XML",
     "XML error: Invalid value 'abc' for element or attribute './memory[1]'"),
    ("memory bad unit", domain(old="MiB", new="QiB"), "INVALID_ARG", "NONE", "invalid argument: unknown suffix 'QiB'"),
    ("no os", domain(old=OS), "XML_ERROR", "DOMAIN", "XML error: an os <type> must be specified"),
    ("no os type text", domain(old="hvm"), "XML_ERROR", "DOMAIN", "XML error: an os <type> must be specified"),
    ("arch bogus", domain(old="x86_64", new="vax"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: Unknown architecture vax"),
    ("bad uuid", domain(old=UUID, new="x"), "INTERNAL_ERROR", "DOMAIN", "internal error: malformed uuid element"),
    ("vcpu 'x'", domain(old="<vcpu>1", new="<vcpu>x"), "XML_ERROR", "DOMAIN",
     "XML error: maximum vcpus count must be an integer"),
    ("vcpu 0", domain(old="<vcpu>1", new="<vcpu>0"), "INTERNAL_ERROR", "DOMAIN",
     "internal error: CPU IDs in <numa> exceed the <vcpu> count"),
    ("vcpu current>max", domain(old="<vcpu>", new="<vcpu current='2'>"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: maximum vCPU count must not be less than current vCPU count"),
    ("cpu model unknown", domain("<cpu><model>nosuchcpu</model></cpu>"), "INTERNAL_ERROR", "CPU",
     "internal error: Unknown CPU model nosuchcpu"),
    ("cpu host-passthrough type=qemu", domain("<cpu mode='host-passthrough'/>"), "CONFIG_UNSUPPORTED", "QEMU",
     "unsupported configuration: CPU mode 'host-passthrough' for x86_64 qemu domain on x86_64 host"
     " is not supported by hypervisor"),
    ("feature unknown", domain("<features><nosuch/></features>"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: unexpected feature 'nosuch'"),
    ("emulator missing path", devices("<emulator>/nonexistent/qemu</emulator>"), "SYSTEM_ERROR", "QEMU",
     "Cannot check QEMU binary /nonexistent/qemu: No such file or directory"),
    ("emulator not executable", devices("<emulator>/etc/passwd</emulator>"), "SYSTEM_ERROR", "QEMU",
     "QEMU binary /etc/passwd is not executable: Permission denied"),
    ("emulator relative", devices("<emulator>qemu-system-x86_64</emulator>"), "SYSTEM_ERROR", "QEMU",
     "Cannot check QEMU binary qemu-system-x86_64: No such file or directory"),
    ("disk format bogus", disk(source="<source file='/d'/>").replace("'raw'", "'bogus'"), "CONFIG_UNSUPPORTED",
     "DOMAIN", "unsupported configuration: unknown driver format value 'bogus'"),
    ("disk target dev bogus", disk("<target dev='zz9'/>", "<source file='/d'/>"), "XML_ERROR", "DOMAIN",
     "XML error: Unknown disk name 'zz9' and no address specified"),
    ("disk bus bogus", disk("<target dev='vda' bus='bogus'/>", "<source file='/d'/>"), "XML_ERROR", "XML",
     "XML error: Invalid value for attribute 'bus' in element 'target': 'bogus'."),
    ("disk no source (disk)", disk(), "NO_SOURCE", "DOMAIN", "missing source information for device vda"),
    ("cdrom bus virtio", disk(kind="cdrom"), "CONFIG_UNSUPPORTED", "QEMU",
     "unsupported configuration: disk type of 'vda' does not support ejectable media"),
    ("disk ide on q35", disk("<target dev='hda' bus='ide'/>", "<source file='/d'/>"), "CONFIG_UNSUPPORTED", "QEMU",
     "unsupported configuration: IDE controllers are unsupported for this QEMU binary or machine type"),
    ("disk missing file raw", disk(source="<source file='/nonexistent/d.img'/>"), "SYSTEM_ERROR", "STORAGE",
     "Cannot access storage file '/nonexistent/d.img': No such file or directory"),
    ("iface type bogus", devices("<interface type='bogus'/>"), "XML_ERROR", "XML",
     "XML error: Invalid value for attribute 'type' in element 'interface': 'bogus'."),
    ("iface bad mac", devices("<interface type='user'><mac address='zz'/></interface>"), "XML_ERROR", "DOMAIN",
     "XML error: unable to parse mac address 'zz'"),
    ("serial unix no path", devices("<serial type='unix'><source mode='bind'/></serial>"), "INTERNAL_ERROR", "DOMAIN",
     "internal error: Missing source path attribute for char device"),
    ("graphics bogus", devices("<graphics type='bogus'/>"), "XML_ERROR", "XML",
     "XML error: Invalid value for attribute 'type' in element 'graphics': 'bogus'."),
    ("video bogus", devices("<video><model type='bogus'/></video>"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: unknown video model 'bogus'"),
    ("controller pci bogus model", devices("<controller type='pci' index='1' model='bogus'/>"), "CONFIG_UNSUPPORTED",
     "DOMAIN", "unsupported configuration: Unknown model type 'bogus'"),
    ("pci slot invalid", devices("<rng model='virtio'><backend model='random'>/dev/urandom</backend>"
     "<address type='pci' slot='0x40'/></rng>"), "XML_ERROR", "NONE",
     "XML error: Invalid PCI address slot='0x40', must be <= 0x1F"),
    ("watchdog bogus", devices("<watchdog model='bogus'/>"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: unknown watchdog model 'bogus'"),
    ("vsock cid 2 reserved", devices("<vsock><cid auto='no' address='2'/></vsock>"), "CONFIG_UNSUPPORTED", "DOMAIN",
     "unsupported configuration: guest CIDs must be >= 3"),
    ("kernel cmdline w/o kernel", domain(old="</os>", new="<cmdline>x</cmdline></os>"), "INTERNAL_ERROR", "QEMU",
     "internal error: process exited while connecting to monitor: <time> qemu-system-x86_64: "
     "-append only allowed with -kernel option"),
    ("qemu:commandline bad arg",
     domain("<qemu:commandline><qemu:arg value='-nosuch'/></qemu:commandline>").replace(
         "<domain ", "<domain xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0' "),
     "INTERNAL_ERROR", "QEMU",
     "internal error: process exited while connecting to monitor: qemu-system-x86_64: -nosuch: invalid option"),
]  # fmt: skip

NOT_RUNNING = "Requested operation is not valid: domain is not running"

#: What a connection says: label, call, code, error domain, sentence.
CONNECTION = [
    ("createXML unknown flags 1<<20", lookups("createXML", domain(), 1 << 20), "INVALID_ARG", "QEMU",
     "unsupported flags (0x100000) in function qemuDomainCreateXML"),
    ("lookupByName unknown", lookups("lookupByName", "nosuch"), "NO_DOMAIN", "QEMU",
     "Domain not found: no domain with matching name 'nosuch'"),
    ("lookupByName ''", lookups("lookupByName", ""), "NO_DOMAIN", "QEMU",
     "Domain not found: no domain with matching name ''"),
    ("lookupByUUIDString malformed", lookups("lookupByUUIDString", "zz"), "INVALID_ARG", "DOMAIN", "Invalid UUID"),
    ("lookupByUUID bytes", lookups("lookupByUUID", b"\x22" * 16), "NO_DOMAIN", "QEMU",
     f"Domain not found: no domain with matching uuid '{OTHER}'"),
    ("lookupByID -1", lookups("lookupByID", -1), "INVALID_ARG", "DOMAIN",
     "id in virDomainLookupByID must be zero or greater"),
    ("getDomainCapabilities arch", lookups("getDomainCapabilities", None, "vax"), "INVALID_ARG", "QEMU",
     "invalid argument: unknown architecture: vax"),
    ("getDomainCapabilities machine", lookups("getDomainCapabilities", None, "x86_64", "bogus", "qemu"), "INVALID_ARG",
     "QEMU", "invalid argument: the machine 'bogus' is not supported by emulator '/usr/bin/qemu-system-x86_64'"),
    ("getDomainCapabilities type", lookups("getDomainCapabilities", None, "x86_64", None, "bogus"), "INVALID_ARG",
     "QEMU", "invalid argument: unknown virttype: bogus"),
    ("getDomainCapabilities emulator", lookups("getDomainCapabilities", "/nonexistent"), "SYSTEM_ERROR", "QEMU",
     "Cannot check QEMU binary /nonexistent: No such file or directory"),
    ("domainXMLToNative not xml", lookups("domainXMLToNative", "qemu-argv", "zz"), "XML_DETAIL", "DOMAIN",
     "(domain_definition):1: Start tag expected, '<' not found\nzz\n^"),
    ("domainXMLToNative bogus", lookups("domainXMLToNative", "bogus", domain()), "INVALID_ARG", "QEMU",
     "invalid argument: unsupported config type bogus"),
    ("getSysinfo", lookups("getSysinfo"), "NO_SUPPORT", "DOMAIN",  # libvirt: CONFIG_UNSUPPORTED; here no host is read
     "this function is not supported by the connection driver: virConnectGetSysinfo"),
]  # fmt: skip

#: What a defined domain says that does not run.
DEFINED = [
    *[
        (name, lookups(name), "OPERATION_INVALID", origin, NOT_RUNNING)
        for name, origin in [
            ("destroy", "DOMAIN"), ("suspend", "DOMAIN"), ("shutdown", "QEMU"), ("reboot", "DOMAIN"),
            ("maxVcpus", "DOMAIN"),
        ]
    ],
    ("shutdownFlags MODE_AGENT", lookups("shutdownFlags", 2), "OPERATION_INVALID", "QEMU", NOT_RUNNING),
    ("reboot ACPI or agent", lookups("reboot", 3), "OPERATION_INVALID", "DOMAIN", NOT_RUNNING),
    ("metadata LIVE", lookups("metadata", 0, None, 1), "OPERATION_INVALID", "DOMAIN", NOT_RUNNING),
    ("vcpusFlags LIVE", lookups("vcpusFlags", 1), "OPERATION_INVALID", "DOMAIN", NOT_RUNNING),
    ("qemuMonitorCommand", lambda d: libvirt_qemu.qemuMonitorCommand(d, "{}", 0), "OPERATION_INVALID", "DOMAIN",
     NOT_RUNNING),
    ("openConsole", lambda d: d.openConsole(None, d.connect().newStream()), "OPERATION_INVALID", "DOMAIN", NOT_RUNNING),
    ("openChannel", lambda d: d.openChannel(None, d.connect().newStream()), "OPERATION_INVALID", "DOMAIN", NOT_RUNNING),
    ("metadata absent", lookups("metadata", 1, None), "NO_DOMAIN_METADATA", "DOMAIN",
     "metadata not found: Requested metadata element is not present"),
    ("setMetadata elem bad xml", lookups("setMetadata", 2, "<a", "k", "urn:x"), "XML_DETAIL", "DOMAIN",
     "(metadata_xml):1: Couldn't find end of Start Tag a line 1\n<a\n--^"),
    ("rename to itself", lookups("rename", "a"), "OPERATION_INVALID", "DOMAIN",
     "Requested operation is not valid: Can't rename domain to itself"),
    ("rename bad", lookups("rename", "a/b"), "XML_ERROR", "QEMU", "XML error: name a/b cannot contain '/'"),
    ("defineXML same uuid other name", lambda d: d.connect().defineXML(domain(old=">a<", new=">p<")),
     "OPERATION_FAILED", "DOMAIN", f"operation failed: domain 'a' is already defined with uuid {UUID}"),
    ("createXML same name other uuid as inactive", lambda d: d.connect().createXML(domain(old=UUID, new=OTHER)),
     "OPERATION_FAILED", "DOMAIN", f"operation failed: domain 'a' already exists with uuid {UUID}"),
    ("agentSetResponseTimeout bad", lambda d: libvirt_qemu.qemuAgentCommand(d, "{}", -5, 0), "INVALID_ARG", "QEMU",
     "invalid argument: guest agent timeout '-5' is less than the minimum '-2'"),
    ("XMLDesc bad flag", lookups("XMLDesc", 0x40000000), "INVALID_ARG", "QEMU",
     "unsupported flags (0x40000000) in function qemuDomainGetXMLDesc"),
    ("destroyFlags bad", lookups("destroyFlags", 0x40), "INVALID_ARG", "QEMU",
     "unsupported flags (0x40) in function qemuDomainDestroyFlags"),
]  # fmt: skip

#: What a transient domain says that runs.
RUNNING = [
    ("create() on running transient", lookups("create"), "OPERATION_INVALID", "QEMU",
     "Requested operation is not valid: domain is already running"),
    ("createWithFlags when running", lookups("createWithFlags", 1), "OPERATION_INVALID", "QEMU",
     "Requested operation is not valid: domain is already running"),
    ("undefine transient", lookups("undefine"), "OPERATION_INVALID", "QEMU",
     "Requested operation is not valid: cannot undefine transient domain"),
    ("rename running", lookups("rename", "b"), "OPERATION_INVALID", "QEMU",
     "Requested operation is not valid: cannot rename active domain"),
    ("dup name, other uuid", lambda d: d.connect().createXML(domain(old=UUID, new=OTHER)), "OPERATION_FAILED", "DOMAIN",
     f"operation failed: domain 'a' already exists with uuid {UUID}"),
    ("dup name+uuid", lambda d: d.connect().createXML(domain()), "OPERATION_INVALID", "DOMAIN",
     "Requested operation is not valid: domain 'a' is already active"),
    ("defineXML dup name other uuid", lambda d: d.connect().defineXML(domain(old=UUID, new=OTHER)), "OPERATION_FAILED",
     "DOMAIN", f"operation failed: domain 'a' already exists with uuid {UUID}"),
    ("shutdown MODE_AGENT", lookups("shutdownFlags", 2), "ARGUMENT_UNSUPPORTED", "QEMU",
     "argument unsupported: QEMU guest agent is not configured"),
    ("qemuAgentCommand no agent", lambda d: libvirt_qemu.qemuAgentCommand(d, "{}", 1, 0), "ARGUMENT_UNSUPPORTED",
     "QEMU", "argument unsupported: QEMU guest agent is not configured"),
    ("setMetadata elem bad xml", lookups("setMetadata", 2, "<a", "k", "urn:x"), "XML_DETAIL", "DOMAIN",
     "(metadata_xml):1: Couldn't find end of Start Tag a line 1\n<a\n--^"),
    ("vcpusFlags CONFIG", lookups("vcpusFlags", 2), "OPERATION_INVALID", "DOMAIN",
     "Requested operation is not valid: transient domains do not have any persistent config"),
]  # fmt: skip


def marks(row: tuple[Any, ...]) -> list[pytest.MarkDecorator]:
    subject = row[1]
    kinds = re.findall(r"<devices><(\w+)", subject) if isinstance(subject, str) else []
    missing = [kind for kind in kinds if kind != "emulator" and kind not in KINDS]
    return [pytest.mark.skip(f"there is no device of the kind {kind}") for kind in missing]


def rows(table: list[tuple[Any, ...]]) -> pytest.MarkDecorator:
    parameters = [pytest.param(*row[1:], id=row[0], marks=marks(row)) for row in table]
    return pytest.mark.parametrize(("call", "code", "origin", "sentence"), parameters)


@pytest.fixture(scope="module")
def conn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[libvirt.virConnect]:
    """A connection to a real root; the probe of QEMU is kept for the whole run, out of the user's cache."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EMBEDVM_CACHE_DIR", str(shared / "probe"))
        with libvirt.open(f"qemu:///embed?root={tmp_path_factory.mktemp('root')}") as connection:
            yield connection


@pytest.fixture
def defined(conn: libvirt.virConnect) -> Iterator[libvirt.virDomain]:
    subject = conn.defineXML(domain())
    yield subject
    subject.undefine()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, conn: libvirt.virConnect) -> Iterator[libvirt.virDomain]:
    """In a root of its own: it stays while others come and go."""
    with libvirt.open(f"qemu:///embed?root={tmp_path_factory.mktemp('running')}") as connection:
        yield connection.createXML(domain())


def check(call: Callable[[], Any], code: str, origin: str, sentence: str) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    error = caught.value
    found = (
        libvirt.constants.ErrorNumber(error.get_error_code()).name,
        libvirt.constants.ErrorDomain(error.get_error_domain()).name,
        re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", str(error)),
    )
    assert found == (code, origin, sentence)


@rows(XML)
def test_create_xml(conn: libvirt.virConnect, call: str, code: str, origin: str, sentence: str) -> None:
    try:
        check(lambda: conn.createXML(call, libvirt.VIR_DOMAIN_START_PAUSED), code, origin, sentence)
        assert conn.listAllDomains() == []
    finally:
        for left in conn.listAllDomains():
            left.destroy()


@rows(CONNECTION)
def test_connection(conn: libvirt.virConnect, call: Any, code: str, origin: str, sentence: str) -> None:
    check(lambda: call(conn), code, origin, sentence)


@rows(DEFINED)
def test_defined(defined: libvirt.virDomain, call: Any, code: str, origin: str, sentence: str) -> None:
    check(lambda: call(defined), code, origin, sentence)
    assert [d.name() for d in defined.connect().listAllDomains()] == ["a"]


@rows(RUNNING)
def test_running(running: libvirt.virDomain, call: Any, code: str, origin: str, sentence: str) -> None:
    check(lambda: call(running), code, origin, sentence)
    assert running.isActive()
