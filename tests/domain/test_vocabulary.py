"""What libvirt knows of a domain, and what it does not."""

from __future__ import annotations

import pytest
from lxml import etree

from pytest_embedvm.domain import vocabulary
from pytest_embedvm.domain.vocabulary import knows

QEMU = "{http://libvirt.org/schemas/domain/qemu/1.0}"
MINE = "{http://example.org/mine}"

KNOWN = [
    "domain",
    "domain/@type",
    "domain/@id",
    "domain/name",
    "domain/memory/@unit",
    "domain/memory/@dumpCore",
    "domain/maxMemory/@slots",
    "domain/os/type/@machine",
    "domain/os/@firmware",
    "domain/os/firmware/feature/@enabled",
    "domain/os/loader/@readonly",
    "domain/os/boot/@dev",
    "domain/cpu/feature/@policy",
    "domain/cpu/numa/cell/distances/sibling/@value",
    "domain/features/hyperv/spinlocks/@retries",
    "domain/features/kvm/hidden/@state",
    "domain/clock/timer/catchup/@slew",
    "domain/cputune/vcpupin/@cpuset",
    "domain/devices/emulator",
    "domain/devices/disk/@device",
    "domain/devices/disk/driver/@discard",
    "domain/devices/disk/iotune/total_bytes_sec",
    "domain/devices/disk/source/@file",
    "domain/devices/disk/source/@dev",
    "domain/devices/disk/source/host/@port",
    "domain/devices/disk/source/slices/slice/@offset",
    "domain/devices/disk/backingStore/source/@file",
    "domain/devices/disk/mirror/@job",
    "domain/devices/disk/boot/@order",
    "domain/devices/disk/address/@controller",
    "domain/devices/interface/@trustGuestRxFilters",
    "domain/devices/interface/backend/@type",
    "domain/devices/interface/source/@network",
    "domain/devices/interface/source/@bridge",
    "domain/devices/interface/bandwidth/inbound/@average",
    "domain/devices/interface/vlan/tag/@nativeMode",
    "domain/devices/interface/address/@multifunction",
    "domain/devices/serial/log/@append",
    "domain/devices/serial/target/model/@name",
    "domain/devices/console/target/@port",
    "domain/devices/channel/target/@state",
    "domain/devices/hostdev/source/address/@bus",
    "domain/devices/controller/target/@chassisNr",
    "domain/devices/video/model/acceleration/@accel3d",
    "domain/devices/video/model/resolution/@x",
    "domain/devices/graphics/listen/@socket",
    "domain/devices/tpm/backend/encryption/@secret",
    "domain/devices/vsock/cid/@auto",
    "domain/devices/rng/backend/@model",
    "domain/devices/memballoon/stats/@period",
    "domain/devices/iommu/driver/@intremap",
    "domain/devices/audio/input/settings/@frequency",
    "domain/seclabel/@model",
    "domain/launchSecurity/policy",
]

UNKNOWN = [
    "",
    "network",
    "domain/@colour",
    "domain/nmae",
    "domain/@name",
    "domain/name/@unit",
    "domain/name/name",
    "domain/@type/@type",
    "domain/@type/name",
    "domain/devices/@count",
    "domain/devices/teapot",
    "domain/devices/disk/@model2",
    "domain/devices/disk/teapot/@file",
    "domain/devices/disk/iotune/@total_bytes_sec",
    "domain/devices/disk/iotune/total_bytes_sec/@unit",
    "domain/devices/disk/source/@bridge",
    "domain/devices/disk/mac",
    "domain/devices/interface/iotune",
    "domain/devices/interface/mac/@adress",
    "domain/devices/memballoon/target",
    "domain/disk",
    "domain/devices/devices",
    "domain/features/kvm/@hidden",
    "domain/clock/timer/timer",
    "domain/cpu/numa/cell/cell",
    "domain/*",
    "domain/devices/disk/@*",
    "start",
    "domain/commandline",
]


def split(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")) if path else ()


@pytest.mark.parametrize("path", KNOWN)
def test_knows(path: str) -> None:
    assert knows(split(path))


@pytest.mark.parametrize("path", UNKNOWN)
def test_does_not_know(path: str) -> None:
    assert not knows(split(path))


@pytest.mark.parametrize("depth", [1, 2, 1000])
def test_recursion_has_no_bottom(depth: int) -> None:
    chain = ("domain", "devices", "disk", *["backingStore"] * depth)
    assert knows((*chain, "source", "@file"))
    assert knows((*chain, "format", "@type"))
    assert not knows((*chain, "target", "@dev"))


@pytest.mark.parametrize(
    "path",
    [
        (f"{QEMU}commandline",),
        (f"{QEMU}commandline", f"{QEMU}arg", "@value"),
        (f"{QEMU}commandline", f"{QEMU}env", "@name"),
        (f"{QEMU}capabilities", f"{QEMU}del", "@capability"),
        (f"{QEMU}deprecation", "@behavior"),
        (f"{QEMU}override", f"{QEMU}device", "@alias"),
        (f"{QEMU}override", f"{QEMU}device", f"{QEMU}frontend", f"{QEMU}property", "@type"),
    ],
)
def test_the_qemu_namespace(path: tuple[str, ...]) -> None:
    assert knows(("domain", *path))
    assert not knows(("domain", "devices", *path))
    bare = tuple(name.removeprefix(QEMU) for name in path)
    assert not knows(("domain", *bare))


def test_a_name_in_a_namespace_is_not_the_name_without() -> None:
    assert not knows(("domain", f"{QEMU}name"))
    assert not knows(("domain", f"{QEMU}commandline", "arg"))
    assert not knows(("domain", f"@{QEMU}type"))


def test_metadata_is_the_users() -> None:
    inside = ("domain", "metadata", f"{MINE}app")
    assert knows(inside)
    assert knows((*inside, "@owner"))
    assert knows((*inside, f"@{MINE}owner"))
    assert knows((*inside, "plain", f"{MINE}deep", "@x"))
    assert knows(("domain", "metadata", "disk", "nonsense"))
    assert not knows(("domain", "metadata", "@owner"))


def test_a_foreign_namespace_elsewhere_is_nothing_libvirt_reads() -> None:
    assert not knows(("domain", f"{MINE}app"))
    assert not knows(("domain", "devices", f"{MINE}app", "@x"))


FULL = """
<domain type='qemu' id='7' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>full</name><uuid>2e2b9a4e-7d0c-4a35-9a3c-1f4e9c8a9a11</uuid><genid/><title>t</title>
  <metadata><m:app xmlns:m='http://example.org/mine' m:v='1'><any x='1'><thing/></any></m:app></metadata>
  <memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>1048576</currentMemory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu placement='static' current='1'>2</vcpu><resource><partition>/machine</partition></resource>
  <os firmware='efi'><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><loader secure='no' type='pflash'>/l</loader>
    <nvram template='/t'>/n</nvram><kernel>/k</kernel><initrd>/i</initrd><cmdline>c</cmdline><boot dev='hd'/>
    <bootmenu enable='yes' timeout='3'/><smbios mode='sysinfo'/><bios useserial='yes'/></os>
  <features><acpi/><apic eoi='on'/><pae/><smm state='on'/>
    <hyperv mode='custom'><relaxed state='on'/></hyperv></features>
  <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>qemu64</model>
    <topology sockets='2' dies='1' cores='1' threads='1'/><feature policy='require' name='svm'/></cpu>
  <clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
  <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
  <pm><suspend-to-mem enabled='no'/></pm>
  <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk' snapshot='external'><driver name='qemu' type='qcow2' cache='none' io='native'/>
      <source file='/a' index='1'><seclabel model='dac' relabel='no'/></source>
      <backingStore type='file' index='2'><format type='raw'/><source file='/b'/><backingStore/></backingStore>
      <target dev='vda' bus='virtio'/><serial>s</serial><alias name='virtio-disk0'/><boot order='1'/>
      <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>
    <disk type='file' device='cdrom'><target dev='sda' bus='sata' tray='open'/><readonly/><shareable/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>
    <controller type='pci' index='1' model='pcie-root-port'><model name='pcie-root-port'/>
      <target chassis='1' port='0x8'/></controller>
    <controller type='usb' index='0' model='qemu-xhci' ports='15'/>
    <interface type='user'><mac address='52:54:00:00:00:01'/><ip address='10.0.2.0' family='ipv4' prefix='24'/>
      <model type='virtio'/><driver name='qemu' queues='2'/><link state='down'/><mtu size='1400'/></interface>
    <serial type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/>
      <target type='isa-serial' port='0'><model name='isa-serial'/></target><alias name='serial0'/></serial>
    <console type='pty' tty='/dev/pts/1'><target type='virtio' port='0'/></console>
    <channel type='unix'><source mode='bind' path='/s'/>
      <target type='virtio' name='org.qemu.guest_agent.0' state='connected'/>
      <address type='virtio-serial' controller='0' bus='0' port='1'/></channel>
    <input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0' persistent_state='yes'/></tpm>
    <graphics type='vnc' socket='/v'><listen type='socket' socket='/v'/></graphics>
    <audio id='1' type='none'/><video><model type='virtio' heads='1' primary='yes'/></video>
    <watchdog model='i6300esb' action='reset'/><memballoon model='virtio'><stats period='10'/></memballoon>
    <rng model='virtio'><rate bytes='1024' period='1000'/><backend model='random'>/dev/urandom</backend></rng>
    <panic model='isa'><address type='isa' iobase='0x505'/></panic>
    <vsock model='virtio'><cid auto='no' address='3'/></vsock>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'><label>+0:+0</label><imagelabel>+0:+0</imagelabel></seclabel>
  <qemu:commandline><qemu:arg value='-S'/><qemu:env name='A' value='b'/></qemu:commandline>
</domain>
"""


def paths(element: etree._Element, above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    own = (*above, str(element.tag))
    found = [own, *((*own, "@" + str(name)) for name in element.attrib)]
    for child in element:
        found += paths(child, own)
    return found


def test_all_of_a_full_domain_is_known() -> None:
    found = paths(etree.fromstring(FULL))
    assert len(found) > 200
    assert [path for path in found if not knows(path)] == []


def test_the_graph_is_closed() -> None:
    """Every node an item leads to is there, and every node but the start is led to."""
    nodes = vocabulary._nodes()
    led_to = {target for content in nodes.values() for target in content.values()}
    assert led_to | {"start"} == set(nodes)
