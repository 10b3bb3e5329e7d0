"""Clones of one template are not twins: the guests themselves say so."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, CommandFailed, domain_xml, renewal
from pytest_embedvm.guest.image import syscalls
from pytest_embedvm.guest.image.assemble import ROOT
from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.image.manifest import GuestImage
from pytest_embedvm.guest.image.syscalls import BUFFER_ADDRESS, Calls
from pytest_embedvm.guest.renewal import Renewal

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY
CLONES = 20

#: What a clone must have of its own: one line each, without a word of the others'.
WHO = """
hostname; cat /etc/hostname 2>/dev/null || hostname
cat /etc/machine-id /sys/class/net/eth0/address /proc/sys/kernel/random/boot_id
"""
#: Two processes that begin at once, one with a device, the other with the system call.
DRAW = "head -c 32 /dev/urandom >/run/one & /lib/embedvm/syscalls >/run/two; wait; cat /run/one /run/two"
SPACE = BUFFER_ADDRESS + 0x800


class Clones:
    """A template, and clones of it in one root."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.root = folder / "root"
        self.root.mkdir(mode=0o700)
        self.template = folder / "template"
        self.connection = libvirt.open(embed.make_uri(self.root))
        self._stack = stack
        stack.callback(self.connection.close)
        self._count = 0
        self.template_macs: list[str] = []

    def prepare(self, xml: str, prepare: Callable[[VM], object]) -> None:
        with VM(embed.begin_template(self.connection, xml, self.template, PAUSED)) as vm:
            vm.domain.resume()
            vm.wait_ready()
            renewal.install(vm)
            prepare(vm)
            self.template_macs = list(macs(vm))
            embed.freeze(vm.domain, self.template)

    def resumed(self) -> VM:
        """A clone that was not told that it is one."""
        self._count += 1
        vm = VM(embed.clone(self.connection, self.template, f"clone-{self._count}", PAUSED))
        self._stack.callback(vm.close)
        vm.domain.resume()
        return vm

    def renewed(self) -> VM:
        vm = self.resumed()
        assert renewal.renew(vm, wait_address=True).lacks == ()
        return vm


def macs(vm: VM) -> Iterator[str]:
    return (mac.get("address", "") for mac in ET.fromstring(vm.domain.XMLDesc()).iterfind("devices/interface/mac"))


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> GuestImage:
    if shutil.which("qemu-system-x86_64") is None:
        pytest.skip("there is no qemu-system-x86_64")
    base = tmp_path_factory.getbasetemp()
    return build_guest((base.parent if hasattr(request.config, "workerinput") else base) / "guest-cache")


def xml(image: GuestImage, *more: str) -> str:
    text = domain_xml("template", kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline)
    return text.replace("<serial", "".join(more) + "<serial", 1)


@pytest.fixture(scope="module")
def clones(image: GuestImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clones]:
    """Clones of a template that had its address, and whose boot's id and random numbers were read."""

    def prepare(vm: VM) -> None:
        vm.wait_until(vm.addresses)
        assert vm.read_text("/etc/machine-id").strip() == vm.domain.UUIDString().replace("-", "")
        vm.run("cat /proc/sys/kernel/random/boot_id; head -c 32 /dev/urandom; echo guest >/etc/hostname")

    with ExitStack() as stack:
        made = Clones(tmp_path_factory.mktemp("clones"), stack)
        made.prepare(xml(image), prepare)
        yield made


def draw(vm: VM) -> Iterator[bytes]:
    """Numbers of the guest's kernel, 32 bytes each."""
    calls = Calls()
    calls.add("getrandom", SPACE, 32, 0)
    calls.add("write", 1, SPACE, 32)
    output = vm.run(DRAW, input=calls.to_bytes()).stdout
    yield output[:32]
    yield output[32:64]


def late(vm: VM) -> float:
    """By how many seconds at least the guest's clock is not the host's, whenever it was that it was read."""
    calls = Calls()
    calls.add("clock_gettime", 0, SPACE)
    calls.add("write", 1, SPACE, 16)
    before = time.time()
    output = vm.run(["/lib/embedvm/syscalls"], input=calls.to_bytes()).stdout
    after = time.time()
    seconds, rest = struct.unpack_from("<qq", output)
    there = float(seconds + rest / 1e9)
    return max(before - there, there - after, 0.0)


@pytest.fixture(autouse=True)
def more_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only these tests ask the kernel for."""
    monkeypatch.setitem(syscalls.NUMBERS, "getrandom", 318)
    monkeypatch.setitem(syscalls.NUMBERS, "clock_gettime", 228)


def test_no_two_clones_are_the_same(clones: Clones) -> None:
    vms = [clones.resumed() for _ in range(CLONES)]
    try:
        renewals = [renewal.renew(vm) for vm in vms]
        numbers = [number for vm in vms for number in draw(vm)]
        assert [len(number) for number in numbers] == [32] * 2 * CLONES
        assert len(set(numbers)) == 2 * CLONES
        for vm, renewed in zip(vms, renewals, strict=True):
            assert renewed == Renewal(vm.name, vm.domain.UUIDString().replace("-", ""), tuple(macs(vm)), ())
        said = [vm.run(WHO).text.split() for vm in vms]
        expected = [(renewed.hostname, renewed.machine_id, *renewed.macs) for renewed in renewals]
        assert [(who[0], who[2], who[3]) for who in said] == expected
        words = [word for who in said for word in set(who)]
        assert len(words) == len(set(words))
        assert not set(clones.template_macs) & set(words)
        addresses = [vm.wait_until(vm.addresses)[0] for vm in vms]
        assert len(set(addresses)) == CLONES
        assert len({vm.domain.UUIDString() for vm in vms}) == CLONES
    finally:
        for vm in vms:
            vm.domain.destroy()


def test_the_clock_is_the_hosts(clones: Clones) -> None:
    vm = clones.resumed()
    for tell in renewal.renew, renewal.set_clock:
        vm.run("date -s @1000000000")
        tell(vm)
        assert late(vm) <= 0.1


def succeeds(vm: VM, command: str) -> bool:
    return vm.run(command, check=False).returncode == 0


def test_two_clones_talk_to_each_other(clones: Clones) -> None:
    here, there = clones.renewed(), clones.renewed()
    for address in there.name, str(there.addresses()[0]):
        here.run(["ping", "-c", "1", "-w", "20", address])
        there.run("nc -l -p 7000 </dev/null >/run/heard 2>/dev/null &")
        say = f"echo {address} | nc {address} 7000"
        here.wait_until(partial(succeeds, here, say))
        there.wait_until(partial(succeeds, there, f"grep -qx {address} /run/heard"))


def test_nobody_hears_of_the_templates_address(clones: Clones) -> None:
    here, other = clones.renewed(), clones.resumed()
    address = here.addresses()[0]
    asks = ["ping", "-c", "1", "-w", "2", str(address)]
    assert other.run(asks, check=False).returncode != 0
    assert not any(mac in here.run("cat /proc/net/arp").text for mac in clones.template_macs)
    renewal.renew(other, wait_address=True)
    other.run(["ping", "-c", "1", "-w", "20", str(address)])
    assert next(macs(other)) in here.run("cat /proc/net/arp").text
    routes = other.run("ip addr; ip route; ip neigh").text
    assert f"inet {other.addresses()[0]}/24" in routes
    assert routes.count("inet 192.168.122.") == 1
    assert not any(mac in routes for mac in clones.template_macs)


def test_a_second_renewal_changes_no_card(clones: Clones) -> None:
    vm = clones.renewed()
    cards = vm.run("ip -4 addr show eth0; cat /run/lease.eth0/pid").text
    assert renewal.renew(vm, hostname="an other_name").hostname == "an-other-name"
    assert vm.run("hostname; cat /etc/hostname").text.split() == ["an-other-name"] * 2
    assert "127.0.1.1 an-other-name" in vm.read_text("/etc/hosts").splitlines()
    assert vm.run("ip -4 addr show eth0; cat /run/lease.eth0/pid").text == cards


CARD = """
<interface type='network'>
  <source network='default'/><model type='virtio'/><address type='pci' bus='2' slot='{}'/>
</interface>
"""
#: Behind the bridge for devices that come later, and the second before the first.
CARDS = (CARD.format(9), CARD.format(5))


def card_of(vm: VM, mac: str) -> str:
    """What the guest calls the card with this MAC."""
    return vm.run(f"grep -l {mac} /sys/class/net/*/address").text.split("/")[4]


def test_each_card_has_its_own_address_and_keeps_its_settings(image: GuestImage, tmp_path: Path) -> None:
    def prepare(vm: VM) -> None:
        vm.wait_until(lambda: len(vm.addresses()) == 3)
        _, fixed, down = macs(vm)
        for card in (fixed, down):
            name = card_of(vm, card)
            vm.run(f"kill -KILL $(cat /run/lease.{name}/pid); while [ -e /run/lease.{name} ]; do usleep 1000; done")
            vm.run(f"ip addr flush dev {name}")
        vm.run(f"ip addr add 10.9.8.7/24 dev {card_of(vm, fixed)}; ip link set {card_of(vm, down)} down")

    with ExitStack() as stack:
        clones = Clones(tmp_path, stack)
        clones.prepare(xml(image, *CARDS), prepare)
        vm = clones.resumed()
        renewed = renewal.renew(vm, wait_address=True)
        assert renewed.macs == tuple(macs(vm))
        assert not set(renewed.macs) & set(clones.template_macs)
        leased, fixed, down = (card_of(vm, mac) for mac in renewed.macs)
        assert renewed.lacks == (f"{fixed} has no DHCP client: it keeps what other addresses it has",)
        assert "inet 10.9.8.7/24" in vm.run(f"ip addr show {fixed}").text
        assert ",UP" not in vm.run(f"ip addr show {down}").text
        assert f"inet {vm.addresses()[0]}/" in vm.run(f"ip addr show {leased}").text


#: Stand for what other guests have: they leave a trace, and hold a lease as theirs would.
DHCLIENT = """#!/bin/sh
echo "$*" >>/run/dhclients
udhcpc -q -n -t 10 -T 1 -i "$2"
while :; do sleep 100; done
"""
SYSTEMCTL = """#!/bin/sh
echo "$* $(cat /etc/machine-id)" >>/run/systemctls
"""


def test_the_clients_of_other_guests_are_started_anew(clones: Clones) -> None:
    vm = clones.resumed()
    vm.write_text("/bin/dhclient", DHCLIENT, 0o755)
    vm.run("kill -KILL $(cat /run/lease.eth0/pid); while [ -e /run/lease.eth0 ]; do usleep 1000; done")
    vm.run("mkdir -p /var/lib/dhcp; touch /var/lib/dhcp/dhclient.leases; dhclient -v eth0 >/dev/null 2>&1 </dev/null &")
    vm.wait_until(lambda: vm.run("cat /run/dhclients", check=False).text == "-v eth0\n")
    assert renewal.renew(vm, wait_address=True).lacks == ()
    assert vm.read_text("/run/dhclients") == "-v eth0\n" * 2
    assert vm.run("ls /var/lib/dhcp").text == ""
    assert len(vm.run("cat /proc/[0-9]*/cmdline | grep -ao '[/]bin/dhclient'").text.split()) == 1

    vm = clones.resumed()
    template = clones.template_macs[0]
    vm.run("kill -KILL $(cat /run/lease.eth0/pid); while [ -e /run/lease.eth0 ]; do usleep 1000; done")
    vm.run("mkdir -p /run/systemd/netif/leases /etc/systemd/network; touch /run/systemd/netif/leases/2")
    vm.write_text("/etc/systemd/network/a.network", f"MACAddress={template.upper()}\nPermanentMACAddress={template}\n")
    vm.write_text("/bin/systemctl", SYSTEMCTL, 0o755)
    renewed = renewal.renew(vm)
    assert renewed.lacks == ()
    services = "systemd-networkd systemd-networkd.socket"
    told = [line.rpartition(" ")[::2] for line in vm.read_text("/run/systemctls").splitlines()]
    assert told == [
        (words, renewed.machine_id)
        for words in ("-q is-active systemd-networkd", f"stop {services}", f"start {services}")
    ]
    assert vm.read_text("/etc/systemd/network/a.network").split() == [
        f"MACAddress={renewed.macs[0]}", f"PermanentMACAddress={template}",
    ]  # fmt: skip
    assert vm.run("ls /run/systemd/netif/leases; ip -4 addr show eth0 | grep inet", check=False).text == ""


def test_a_guest_without_a_network_and_one_without_the_program(image: GuestImage, tmp_path: Path) -> None:
    text = domain_xml(
        "template", kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, network="none"
    )  # fmt: skip
    with ExitStack() as stack:
        clones = Clones(tmp_path, stack)
        clones.prepare(text, lambda vm: vm.run("date -s @1000000000"))
        vm = clones.resumed()
        assert renewal.renew(vm).lacks == ()
        vm.run("rm /lib/embedvm/syscalls; date -s @1000000000")
        (lack,) = renewal.renew(vm).lacks
        assert lack.startswith("random numbers may be other clones' for up to a minute")
        vm.run("rm -r /lib/embedvm")
        with pytest.raises(CommandFailed, match=r"/lib/embedvm/renew"):
            renewal.renew(vm)
        renewal.install(vm)
        assert late(vm) <= 0.1
        assert renewal.renew(vm).lacks == ()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("web", "web"), ("my vm_1", "my-vm-1"), ("web.example", "web.example"), ("-vm-", "vm"), ("ü", "guest"),
        ("a" * 70, "a" * 64),
    ],
)  # fmt: skip
def test_a_host_name_is_one(name: str, expected: str) -> None:
    assert renewal.host_name(name) == expected


def test_cards_are_found_by_their_way_through_the_bus() -> None:
    domain = """
    <domain><devices>
      <controller type='pci' index='0' model='pcie-root'/>
      <controller type='pci' index='1'><address type='pci' bus='0x00' slot='0x1c' function='0x0'/></controller>
      <controller type='pci' index='2'><address type='pci' bus='0x01' slot='0x00' function='0x0'/></controller>
      <controller type='usb' index='1'><address type='pci' bus='0x00' slot='0x1d' function='0x0'/></controller>
      <interface><mac address='a'/><address type='pci' bus='0x02' slot='0x05' function='0x1'/></interface>
      <interface><mac address='b'/><address type='pci' bus='0x00' slot='0x03' function='0x0'/></interface>
      <interface><mac address='c'/><address type='usb' bus='0' port='1'/></interface>
    </devices></domain>
    """
    assert list(renewal.places(ET.fromstring(domain))) == [("/1c.0/00.0/05.1", "a"), ("/03.0", "b")]


@pytest.mark.parametrize("script", [renewal.SCRIPT, renewal.CLIENTS])
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox"])
def test_any_shell_reads_the_scripts(shell: str, script: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    words = [shell, *(["sh"] if shell == "busybox" else []), "-n", str(ROOT / script[1:])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stderr == ""
