"""The addresses of a machine's cards."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from pytest_embedvm.constants import DomainInterfaceAddressesSource as Source
from pytest_embedvm.driver.network import addresses
from pytest_embedvm.driver.network.addresses import Addressed
from pytest_embedvm.errors import ArgumentUnsupported, InternalError, OperationInvalid
from tests.driver import tiny
from tests.driver.conftest import OpenDriver


def test_what_the_agent_tells() -> None:
    ips = [{"ip-address": "10.0.0.1", "prefix": 8}, {"ip-address": "fe80::1", "prefix": 64}]
    assert addresses._told({"name": "eth0", "hardware-address": "52:54:00:00:00:01", "ip-addresses": ips}) == Addressed(
        "eth0", "52:54:00:00:00:01", ((ip_address("10.0.0.1"), 8), (ip_address("fe80::1"), 64))
    )
    assert addresses._told({"name": "sit0"}) == Addressed("sit0", None, ())


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"name": "a", "ip-addresses": [{}]},
        {"name": "a", "ip-addresses": [{"ip-address": "x", "prefix": 1}]},
        {"name": "a", "ip-addresses": [1]},
    ],
)
def test_an_agent_that_makes_no_sense(entry: dict[str, Any]) -> None:
    with pytest.raises(InternalError, match="qemu agent reply to 'guest-network-get-interfaces' makes no sense"):
        addresses._told(entry)


async def test_whom_one_can_ask(embed: OpenDriver, tmp_path: Any) -> None:
    nic = "<interface type='network'><source network='default'/></interface><interface type='user'/>"
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, devices=nic))
        assert await addresses.addresses(machine, Source.LEASE) == []
        assert await addresses.addresses(machine, Source.ARP) == []
        with pytest.raises(ArgumentUnsupported, match="agent"):
            await addresses.addresses(machine, Source.AGENT)
        await driver.networks.destroy(driver.networks.by_name("default"))
        assert await addresses.addresses(machine, Source.LEASE) == []
        await machine.destroy()
        with pytest.raises(OperationInvalid, match="domain is not running"):
            await addresses.addresses(machine, Source.LEASE)
