"""Ports that lead into a guest: what each kind of card can do, and what slirp is told."""

from __future__ import annotations

import pytest

from pytest_embedvm.domain import definition
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.driver.network import forwards, hostfwd
from pytest_embedvm.errors import InvalidArgument, OperationFailed, OperationInvalid, OperationUnsupported
from tests.driver import tiny
from tests.driver.conftest import OpenDriver

HEAD = "Hub -1 (hostnet0):\n  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n"
LINE = "  TCP[HOST_FORWARD]  13       {} {:5}       10.0.2.15    22     0     0\n"


def card(xml: str) -> Interface:
    domain = definition.parse(f"<domain type='qemu'><name>a</name><os><type>hvm</type></os>"
                              f"<devices>{xml}</devices></domain>")  # fmt: skip
    return next(device for device in domain.devices.all if isinstance(device, Interface))


def test_passt_forwards_what_it_was_told_at_its_start() -> None:
    passt = card("""<interface type='user'><alias name='net0'/><mac address='52:54:00:00:00:01'/>
      <backend type='passt'/>
      <portForward proto='tcp' address='127.0.0.2'><range start='2000' end='2010' to='20'/></portForward>
      <portForward proto='udp'><range start='53'/><range start='54' exclude='yes'/></portForward></interface>""")
    assert forwards._declared(passt, 22, "tcp") == ("127.0.0.2", 2002)
    assert forwards._declared(passt, 53, "udp") == ("127.0.0.1", 53)
    for port, protocol in ((54, "udp"), (31, "tcp"), (19, "tcp"), (22, "udp")):
        with pytest.raises(OperationUnsupported, match=r"card net0 .*passt forwards what <portForward> says"):
            forwards._declared(passt, port, protocol)  # type: ignore[arg-type]


def test_what_forwards_nothing_says_so() -> None:
    tunnel = card("<interface type='mcast'><alias name='net0'/><source address='230.0.0.1' port='1'/></interface>")
    with pytest.raises(OperationUnsupported, match="its <interface> has type 'mcast'"):
        forwards._declared(tunnel, 22, "tcp")


class Human:
    """A human monitor with slirp behind it."""

    def __init__(self, *ports: int, says: str = "") -> None:
        self.ports, self.says, self.heard = list(ports), says, list[str]()

    async def __call__(self, line: str) -> str:
        self.heard.append(line)
        if line == "info usernet":
            return HEAD + "".join(LINE.format("127.0.0.1", port) for port in self.ports)
        if not self.says:
            self.ports.append(40000 + len(self.ports))
        return self.says


async def test_a_port_is_opened_once() -> None:
    human = Human()
    for _ in range(2):
        assert await hostfwd.forward(human, "hostnet0", "tcp", "", 22) == ("127.0.0.1", 40000)
    assert [line for line in human.heard if line != "info usernet"] == ["hostfwd_add hostnet0 tcp:127.0.0.1:0-:22"]
    # What leads to an address is told apart by that, which `info usernet` does not always show.
    assert await hostfwd.forward(human, "hostnet0", "tcp", "198.18.1.1", 22) == ("127.0.0.1", 40001)


async def test_what_slirp_says_is_repeated() -> None:
    with pytest.raises(OperationFailed, match="tcp port 22 cannot be forwarded: could not set up host forwarding rule"):
        await hostfwd.forward(Human(says="could not set up host forwarding rule"), "hostnet0", "tcp", "", 22)


async def test_a_port_of_a_machine(embed: OpenDriver, tmp_path: object) -> None:
    mac = "52:54:00:00:00:01"
    nic = f"<interface type='network'><source network='default'/><mac address='{mac}'/></interface>"
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, devices=nic))  # type: ignore[arg-type]
        place = await forwards.forward(machine, mac, 22, "tcp")
        assert await forwards.forward(machine, mac.upper(), 22, "tcp") == place
        for port, protocol in ((0, "tcp"), (65536, "udp"), (22, "sctp")):
            with pytest.raises(InvalidArgument, match=f"there is no {protocol} port {port}"):
                await forwards.forward(machine, mac, port, protocol)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="no card with MAC"):
            await forwards.forward(machine, "52:54:00:00:00:99", 22, "tcp")
        default = driver.networks.by_name("default")
        await driver.networks.destroy(default)
        with pytest.raises(OperationInvalid, match="network 'default' is not active"):
            await forwards.forward(machine, mac, 22, "tcp")
        await machine.destroy()
