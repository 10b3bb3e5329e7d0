from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_embedvm.driver.node import Node


def host(path: Path, places: list[tuple[int, int]], nodes: int = 1, offline: tuple[int, ...] = ()) -> Node:
    """A node whose CPUs are on these (socket, core) pairs."""
    for number, (package, core) in enumerate(places):
        topology = path / f"cpu/cpu{number}/topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
        (topology / "core_id").write_text(f"{core}\n")
        if number:
            (topology.parent / "online").write_text("0\n" if number in offline else "1\n")
    (path / "cpu/cpufreq").mkdir(parents=True)
    for number in range(nodes):
        (path / f"node/node{number}").mkdir(parents=True)
    cpuinfo = path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\ncpu MHz\t\t: 2596.990\n")
    return replace(Node.read(path, cpuinfo), memory_mib=0)


@pytest.mark.parametrize(
    ("places", "nodes", "offline", "expected"),
    [
        ([(0, 0), (0, 1), (0, 2), (0, 3)], 1, (), (4, 1, 1, 4, 1)),
        ([(0, 0), (0, 0), (0, 1), (0, 1)], 1, (), (4, 1, 1, 2, 2)),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 1, (), (4, 1, 2, 2, 1)),
        ([(0, 0), (0, 1), (1, 0), (1, 1)], 2, (), (4, 2, 1, 2, 1)),
        ([(0, 0), (0, 1), (0, 2), (0, 3)], 1, (3,), (3, 1, 1, 3, 1)),
        ([(0, 0), (0, 0), (0, 1)], 1, (), (3, 1, 1, 3, 1)),  # irregular
    ],
)
def test_topology(
    tmp_path: Path,
    places: list[tuple[int, int]],
    nodes: int,
    offline: tuple[int, ...],
    expected: tuple[int, int, int, int, int],
) -> None:
    node = host(tmp_path, places, nodes, offline)
    assert (node.cpus, node.nodes, node.sockets, node.cores, node.threads) == expected
    assert (node.arch, node.mhz) == (platform.machine(), 2596)


def test_where_the_kernel_tells_nothing(tmp_path: Path) -> None:
    node = Node.read(tmp_path, tmp_path / "cpuinfo")
    assert node.nodes == node.sockets == node.threads == 1
    assert node.cores == node.cpus > 0
    assert node.mhz == 0


def test_this_host() -> None:
    node = Node.read()
    assert node.memory_mib > 0
    assert node.nodes * node.sockets * node.cores * node.threads == node.cpus
