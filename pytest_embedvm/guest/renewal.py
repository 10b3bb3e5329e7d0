"""What makes a clone a machine of its own: its guest goes on as if it were the template, until it is told.

Two clones of one template draw the same random numbers, have the same clock, the same addresses and names. `renew` is
one command in the guest: a shell script, and a program of twenty instructions for what a shell cannot do.
"""

from __future__ import annotations

import os
import re
import struct
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from pytest_embedvm.guest.errors import AgentError
from pytest_embedvm.guest.image.assemble import ROOT
from pytest_embedvm.guest.image.native import programs
from pytest_embedvm.guest.image.syscalls import Calls
from pytest_embedvm.guest.network import cards
from pytest_embedvm.guest.wait import Deadline

if TYPE_CHECKING:
    from pytest_embedvm.guest.vm import VM

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: How long renewing takes at most; a tenth of a second is much.
TIMEOUT_S: Final = 30.0
#: How long the clock of a guest may have taken to be set: it is as much late. Then it is set once more.
CLOCK_S: Final = 0.05
CLOCK_TRIES: Final = 3

#: Where they are in the guest.
SCRIPT: Final = "/lib/embedvm/renew"
CLIENTS: Final = "/lib/embedvm/clients"
PROGRAM: Final = "/lib/embedvm/syscalls"

#: What the kernel's generator takes in at a time, and then believes itself to be full.
ENTROPY_BYTES: Final = 64

#: Have the kernel's random numbers seeded, and the boot's id in a file, since the kernel never changes it: not under a
#: journal, which goes by it.
_READY: Final = """
[ ! -x "$0" ] || "$0" >/dev/null
head -c 1 /dev/random >/dev/null
[ ! -d /run/systemd/journal ] && [ ! -e /run/boot_id ] || exit 0
cat /proc/sys/kernel/random/boot_id >/run/boot_id && mount -o bind /run/boot_id /proc/sys/kernel/random/boot_id
"""

# linux: include/uapi/linux/random.h, time.h, fcntl.h
_RNDADDENTROPY: Final = 0x40085203
_RNDRESEEDCRNG: Final = 0x5207
_CLOCK_REALTIME: Final = 0
_O_WRONLY: Final = 1
_NANOSECONDS: Final = 1_000_000_000

# linux: HOST_NAME_MAX
_LONGEST_NAME: Final = 64


@dataclass(frozen=True)
class Renewal:
    """What a guest was given, and in half a sentence each what it kept of its template's because it lacks something."""

    hostname: str
    machine_id: str
    macs: tuple[str, ...]
    lacks: tuple[str, ...]


def install(vm: VM, *, timeout: float = TIMEOUT_S) -> None:
    """Put what `renew` needs into the guest of VM, which is to become a template; the built-in guest has it.

    Its random numbers are seeded, too: a guest that has none yet makes its first reader wait a second in each clone.

    :raise GuestFileError: when the guest cannot write it.
    """
    deadline = Deadline(timeout)
    scripts = {path: (ROOT / path[1:]).read_bytes() for path in (SCRIPT, CLIENTS)}
    there = ("/bin/sh", "-c", '[ -x "$0" ] && cat "$@"', PROGRAM, *scripts)
    if vm.run(there, check=False, timeout=deadline.remaining).stdout != b"".join(scripts.values()):
        vm.run(("mkdir", "-p", str(PurePosixPath(SCRIPT).parent)), timeout=deadline.remaining)
        arch = vm.run(("uname", "-m"), timeout=deadline.remaining).text.strip()
        code = {path: data for path, data in programs(arch) if path == PROGRAM[1:]}
        for path, data in (scripts | code).items():
            vm.write_bytes(f"/{path.lstrip('/')}", data, 0o755, timeout=deadline.remaining)
    calls = Calls()
    _add_entropy(calls)
    vm.run(("/bin/sh", "-c", _READY, PROGRAM), input=calls.to_bytes(), timeout=deadline.remaining)


def renew(vm: VM, *, hostname: str | None = None, timeout: float = TIMEOUT_S, wait_address: bool = False) -> Renewal:
    """Make the guest of VM, a clone that was just resumed, a machine of its own.

    It has other random numbers, the host's time, the MAC addresses of its domain's XML, which is also where its host
    name and its machine id (the domain's uuid) are from. What it was given by a DHCP server it asks for anew.

    :param hostname: instead of the domain's name; what no host may be called has hyphens instead.
    :param wait_address: return only when it has an address again.
    :raise CommandFailed: when its shell does not do it at all.
    :raise WaitTimeout: after TIMEOUT seconds.
    """
    deadline = Deadline(timeout)
    domain = ET.fromstring(vm.domain.XMLDesc())  # noqa: S314 - the driver wrote it
    name = host_name(hostname or vm.name)
    machine_id = uuid.UUID(vm.domain.UUIDString()).hex
    macs = dict(places(domain))
    words = ("/bin/sh", SCRIPT, name, machine_id, *(f"{place}={mac}" for place, mac in macs.items()))
    begun = time.monotonic()
    calls = Calls()
    _add_time(calls)
    _add_entropy(calls)
    done = vm.run(words, input=calls.to_bytes(), timeout=deadline.remaining)
    lacks = [*done.err.splitlines(), *_failures(calls, done.stdout)]
    if time.monotonic() - begun > CLOCK_S or not done.stdout:
        set_clock(vm, timeout=deadline.remaining)
    if wait_address and macs:
        vm.wait_until(lambda: _has_address(vm), deadline.remaining, message=f"an address of {vm.name}'s")
    return Renewal(name, machine_id, tuple(macs.values()), tuple(lacks))


def _has_address(vm: VM) -> bool:
    """Whether the guest has what a private network gave it; where it is on none, whether it has any."""
    there = set(vm.addresses("agent"))
    leased = {address for address in vm.addresses("lease") if address in there}
    return bool(leased or (there and not any(card.network for card in cards(vm.domain))))


def freshen(vm: VM, *, timeout: float = TIMEOUT_S) -> None:
    """Give the guest of VM, which goes on from a moment that is past, other random numbers and the host's time.

    It stays who it is: its names and addresses are not touched.

    :raise AgentError: when the guest cannot be told the time.
    :raise WaitTimeout: after TIMEOUT seconds.
    """
    deadline = Deadline(timeout)
    begun = time.monotonic()
    calls = Calls()
    _add_time(calls)
    _add_entropy(calls)
    done = vm.run((PROGRAM,), input=calls.to_bytes(), timeout=deadline.remaining, check=False)
    if done.returncode:
        entropy = os.urandom(ENTROPY_BYTES)
        vm.run("cat >/dev/urandom", input=entropy, timeout=deadline.remaining, check=False)
    if done.returncode or _failures(calls, done.stdout) or time.monotonic() - begun > CLOCK_S:
        set_clock(vm, timeout=deadline.remaining)


def set_clock(vm: VM, *, timeout: float = TIMEOUT_S) -> None:
    """Set the guest's clock to the host's: it is late by what the command took to arrive, 0.05 s if that can be had.

    :raise AgentError: when the guest cannot be told the time.
    :raise WaitTimeout: after TIMEOUT seconds.
    """
    deadline = Deadline(timeout)
    for _ in range(CLOCK_TRIES):
        begun = time.monotonic()
        calls = Calls()
        _add_time(calls)
        done = vm.run((PROGRAM,), input=calls.to_bytes(), timeout=deadline.remaining, check=False)
        if done.returncode or _failures(calls, done.stdout):
            begun = time.monotonic()
            _tell_agent(vm, deadline)
        if time.monotonic() - begun <= CLOCK_S:
            return


def _add_time(calls: Calls) -> None:
    seconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    calls.add("clock_settime", _CLOCK_REALTIME, struct.pack("<qq", seconds, rest))


def _add_entropy(calls: Calls) -> None:
    """Mix in numbers of the host's, and have the guest's kernel begin its own with these at once."""
    fresh = os.urandom(ENTROPY_BYTES)
    # The descriptor that is closed is the next to be opened.
    calls.add("close", 0)
    calls.add("open", b"/dev/urandom\0", _O_WRONLY)
    calls.add("ioctl", 0, _RNDADDENTROPY, struct.pack("<ii", len(fresh) * 8, len(fresh)) + fresh)
    calls.add("ioctl", 0, _RNDRESEEDCRNG)


def _failures(calls: Calls, output: bytes) -> list[str]:
    return [result.error for result in calls.results(output) if result.error]


def _tell_agent(vm: VM, deadline: Deadline) -> None:
    try:
        vm._agent.call("guest-set-time", deadline, time=time.time_ns())
    except AgentError as error:
        if "hwclock" not in error.detail:  # the system has the time, and its hardware clock, which is QEMU's, has not
            raise


def host_name(name: str) -> str:
    """NAME as a host may be called: letters, digits, hyphens and dots."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name)[:_LONGEST_NAME].strip("-.") or "guest"


def places(domain: ET.Element) -> Iterator[tuple[str, str]]:
    """Where each NIC of a domain's XML sits, as its guest's kernel says it, and its MAC address.

    Numbers of buses are the guest's own affair; slots and functions from the root bus on are as in the XML.
    """
    bridges = {
        int(found.get("index", "0")): address
        for found in domain.iterfind("devices/controller[@type='pci']")
        if (address := found.find("address[@type='pci']")) is not None
    }
    for card in domain.iterfind("devices/interface"):
        mac, address = card.find("mac"), card.find("address[@type='pci']")
        if mac is not None and address is not None:
            yield _place(address, bridges), mac.get("address", "")


def _place(address: ET.Element, bridges: dict[int, ET.Element]) -> str:
    steps = ""
    above: ET.Element | None = address
    while above is not None:
        slot, function, bus = (int(above.get(name, "0"), 0) for name in ("slot", "function", "bus"))
        steps = f"/{slot:02x}.{function:x}{steps}"
        above = bridges.get(bus)
    return steps
