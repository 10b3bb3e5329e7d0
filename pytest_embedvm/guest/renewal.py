"""A clone that was just resumed becomes a guest of its own."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.guest.vm import VM

#: pytest shows the line that called, not these.
__tracebackhide__ = True

TIMEOUT_S: Final = 60.0

_RENEW: Final = """
cat >/dev/urandom
hostname "$1"; date -s "@$2" >/dev/null; shift 2
number=0
for mac; do ip link set dev "eth$number" address "$mac"; number=$((number + 1)); done
"""


@dataclass(frozen=True)
class Renewal:
    """What of a clone is not its own, in sentences."""

    lacking: tuple[str, ...] = ()


def install(vm: VM) -> None:
    """Put into VM, which is to become a template, what `renew` needs in its clones."""
    vm.run("head -c 64 /dev/urandom >/dev/null")


def renew(vm: VM, *, hostname: str | None = None, timeout: float = TIMEOUT_S) -> Renewal:
    """Give VM, a clone, its own host name, MAC addresses, time and randomness.

    :raise GuestError: when it does not answer.
    """
    with open("/dev/urandom", "rb") as source:  # noqa: PTH123
        entropy = source.read(64)
    # S314: our own driver wrote this document.
    macs = [mac.get("address", "") for mac in ET.fromstring(vm.domain.XMLDesc()).iterfind("devices/interface/mac")]  # noqa: S314
    words = ["/bin/sh", "-c", _RENEW, "sh", hostname or vm.name, f"{time.time():.3f}", *macs]
    done = vm.run(words, input=entropy, timeout=timeout, check=False)
    return Renewal(tuple(done.err.splitlines()))


def set_clock(vm: VM) -> None:
    """Set the clock of VM, as quickly as possible."""
    vm.run(["date", "-s", f"@{time.time():.3f}"])
