"""A cluster of three etcd servers through a partition: the majority goes on without its leader, the minority refuses.

Run it with `pytest --embedvm -s examples/test_cluster.py`. etcd is the host's own, or comes out of Debian's package
`etcd-server`, which is fetched and not installed. Each VM has one etcd; all of it is over in less than a minute.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import Any

import pytest

from pytest_embedvm.guest import VM, NoProgram, RunResult

NAMES = ("red", "green", "blue")
#: Emulated machines on a busy host are late with their heartbeats: etcd's own 100 and 1000 ms would be too strict.
HEARTBEAT_MS, ELECTION_MS = 250, 2500
#: etcd itself gives a request up after 5 s and two elections.
REQUEST_TIMEOUT_S = 60
#: For all that needs an election, on a busy host.
AGREED_TIMEOUT_S = 90


class Node:
    """One member of the cluster; it is asked from inside its own VM."""

    def __init__(self, vm: VM) -> None:
        self.vm = vm
        self.name = vm.name
        self.etcd = vm.install_program("etcd", package="etcd-server")
        self.address = vm.wait_until(self._configured, timeout=60, message="an address")

    def _configured(self) -> IPv4Address | None:
        found = self.vm.addresses("agent")
        return next((address for address in found if isinstance(address, IPv4Address)), None)

    @property
    def peer(self) -> str:
        return f"http://{self.address}:2380"

    def start(self, cluster: Iterable[Node]) -> None:
        members = ",".join(f"{node.name}={node.peer}" for node in cluster)
        self.vm.run(
            f"{self.etcd} --name {self.name} --data-dir /var/etcd --initial-cluster {members}"
            f" --initial-advertise-peer-urls {self.peer} --listen-peer-urls {self.peer}"
            f" --heartbeat-interval {HEARTBEAT_MS} --election-timeout {ELECTION_MS} </dev/null >/var/etcd.log 2>&1 &"
        )

    def ask(self, path: str, **question: object) -> RunResult:
        """The answer of this VM's etcd to QUESTION."""
        words = ["wget", "-q", "-O", "-", "--post-data", json.dumps(question), f"http://127.0.0.1:2379/v3/{path}"]
        return self.vm.run(words, timeout=REQUEST_TIMEOUT_S, check=False)

    def put(self, key: str, value: str) -> bool:
        """Whether the cluster took it."""
        return self.ask("kv/put", key=spell(key), value=spell(value)).returncode == 0

    def get(self, key: str) -> str | None:
        """What the cluster holds: a majority of it is asked."""
        answer = self.ask("kv/range", key=spell(key))
        found: list[dict[str, Any]] = json.loads(answer.text).get("kvs", []) if answer.returncode == 0 else []
        return base64.b64decode(found[0]["value"]).decode() if found else None

    def leader(self) -> tuple[str, str] | None:
        """The leader that this member knows, and its own number."""
        answer = self.ask("maintenance/status")
        status = json.loads(answer.text) if answer.returncode == 0 else {}
        return (status["leader"], status["header"]["member_id"]) if status.get("leader", "0") != "0" else None


def spell(text: str) -> str:
    """As etcd's JSON has it."""
    return base64.b64encode(text.encode()).decode()


def leader_of(nodes: list[Node]) -> Node | None:
    """The one of NODES that all of them take for their leader; None when they do not agree, or it is none of them."""
    known = [node.leader() for node in nodes]
    if None in known or len({found[0] for found in known if found}) != 1:
        return None
    return next((node for node, found in zip(nodes, known, strict=True) if found and found[0] == found[1]), None)


@pytest.fixture
def cluster(vm_factory: Callable[..., VM]) -> list[Node]:
    """Three VMs on one private network, booted side by side, with an etcd each that knows the others."""

    def boot(name: str) -> Node:
        return Node(vm_factory(name=name, memory=384, network="private", timeout=180))

    with ThreadPoolExecutor(len(NAMES)) as pool:
        try:
            nodes = list(pool.map(boot, NAMES))
        except NoProgram as error:
            pytest.skip(str(error))
        list(pool.map(lambda node: node.start(nodes), nodes))
    return nodes


def agreed(nodes: list[Node]) -> Node:
    """The leader of NODES, once there is one."""
    leader = nodes[0].vm.wait_until(lambda: leader_of(nodes), timeout=AGREED_TIMEOUT_S, message="a leader")
    assert leader
    return leader


def paint(nodes: list[Node], colour: str) -> None:
    """Have all NODES tell COLOUR; an election may come in between."""
    wait_until = nodes[0].vm.wait_until
    wait_until(lambda: agreed(nodes).put("colour", colour), timeout=AGREED_TIMEOUT_S, message=f"{colour}, taken")
    require(nodes, colour)


def require(nodes: list[Node], colour: str) -> None:
    for node in nodes:
        node.vm.wait_until(lambda node=node: node.get("colour") == colour, timeout=AGREED_TIMEOUT_S, message=colour)


def test_the_majority_goes_on(cluster: list[Node]) -> None:
    paint(cluster, "white")
    leader = agreed(cluster)
    print(f"\n{leader.name} leads; all have colour=white")

    majority = [node for node in cluster if node is not leader]
    network = leader.vm.network
    with network.partition([leader.vm], [node.vm for node in majority]), ThreadPoolExecutor() as pool:
        # It takes etcd some seconds to give these up; the others need them for their election.
        taken, told = pool.submit(leader.put, "colour", "grey"), pool.submit(leader.get, "colour")

        paint(majority, "black")
        print(f"cut off from {leader.name}: {agreed(majority).name} leads, and took colour=black")

        assert (taken.result(), told.result()) == (False, None)
        print(f"{leader.name}, alone, neither takes nor tells anything")

    # Healed: who was alone follows, and what it was asked then has never been.
    require(cluster, "black")
    print(f"healed: {agreed(cluster).name} leads; all have colour=black")
