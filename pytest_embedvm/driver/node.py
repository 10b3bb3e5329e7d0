"""The machine that the VMs run on, as libvirt describes a node."""

from __future__ import annotations

import os
import platform
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.units import MIB

SYSTEM: Final = Path("/sys/devices/system")
CPUINFO: Final = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Node:
    """`sockets` are those of one NUMA node, `cores` those of one socket, `threads` those of one core."""

    arch: str
    memory_mib: int
    cpus: int
    mhz: int
    nodes: int
    sockets: int
    cores: int
    threads: int

    @classmethod
    def read(cls, system: Path = SYSTEM, cpuinfo: Path = CPUINFO) -> Node:
        """What /sys and /proc say now. Where they say nothing, one node with one socket of single-threaded cores."""
        places = [_place(cpu) for cpu in system.glob("cpu/cpu[0-9]*") if _online(cpu)]
        cpus = len(places) or os.cpu_count() or 1
        nodes = max(1, len(list(system.glob("node/node[0-9]*"))))
        sockets = len({package for package, _ in places}) or 1
        threads = max((places.count(place) for place in places), default=1)
        per_node, beside = divmod(sockets, nodes)
        cores = cpus // (sockets * threads)
        if beside or nodes * per_node * cores * threads != cpus:
            # libvirt: virHostCPUGetInfoPopulateLinux: what is not regular is told as one socket of single threads
            nodes, per_node, cores, threads = 1, 1, cpus, 1
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
        return cls(platform.machine(), memory, cpus, _mhz(cpuinfo), nodes, per_node, cores, threads)


def hostname() -> str:
    """The node's name."""
    return socket.gethostname()


def _online(cpu: Path) -> bool:
    switch = cpu / "online"  # cpu0 often has none: it cannot be switched off
    return (cpu / "topology").is_dir() and (not switch.exists() or switch.read_text().strip() == "1")


def _place(cpu: Path) -> tuple[str, str]:
    """Socket and core."""
    topology = cpu / "topology"
    return (topology / "physical_package_id").read_text().strip(), (topology / "core_id").read_text().strip()


def _mhz(cpuinfo: Path) -> int:
    """The first CPU's speed; 0 where the kernel does not tell."""
    try:
        found = re.search(r"^(?:cpu MHz|clock)\s*:\s*(\d+)", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0
