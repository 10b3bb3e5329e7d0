"""A network's way to the host: when it is there, and that it ends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pytest_embedvm.driver.network import slirp
from pytest_embedvm.driver.network.live import LiveNetwork
from pytest_embedvm.driver.network.slirp import Slirp
from pytest_embedvm.errors import EmbedError, NoNetwork, OperationFailed, OperationInvalid
from tests.driver.network.test_private import listed, opened

NAT = "<network><name>{}</name><forward mode='nat'/><ip address='10.1.0.1' prefix='24'/></network>"


def behind(network: LiveNetwork) -> Slirp | None:
    return network.uplink._slirp if network.uplink else None


def command(program: Slirp) -> str:
    return Path(f"/proc/{program.process.pid}/cmdline").read_text()


async def test_a_network_that_leads_out_has_slirp_until_it_ends(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        assert behind(networks.by_name("default")) is None
        network = await networks.create(NAT.format("out"))
        program = behind(network)
        assert program
        assert 'restrict": false' in command(program)
        await networks.destroy(network)
        assert program.process.returncode == -9
        left = behind(await networks.create(NAT.format("other")))
    assert left
    assert left.process.returncode == -9


async def test_others_have_it_once_a_port_is_forwarded(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        uplink = networks.by_name("default").require_uplink()
        macs = ("52:54:00:00:00:01", "52:54:00:00:00:02")
        places = await asyncio.gather(*(uplink.forward(mac, 22, "tcp") for mac in macs))
        assert len(set(places)) == 2
        assert await uplink.forward(macs[0], 22, "tcp") == places[0]
        program = behind(networks.by_name("default"))
        assert program
        assert 'restrict": true' in command(program)
        await uplink.close(macs[0])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(*places[0])
        _, writer = await asyncio.open_connection(*places[1])
        writer.close()
        await uplink.close(macs[0])


async def test_what_cannot_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slirp, "_options", lambda *_args, **_more: ("-machine", "none", "-netdev", "user,net=nonsense"))
    async with opened(tmp_path) as networks:
        with pytest.raises(OperationFailed, match="user-mode network: "):
            await networks.create(NAT.format("out"))
        with pytest.raises(NoNetwork):
            networks.by_name("out")
        defined = networks.define(NAT.format("out"))
        with pytest.raises(EmbedError):
            await networks.start(defined)
        assert not defined.active
        networks.set_autostart(defined, on=True)
    async with opened(tmp_path) as networks:  # one that cannot start does not keep the root from being opened
        assert listed(networks)["out"] == (False, True, True)


async def test_a_network_without_an_address_leads_nowhere(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        bare = await networks.create("<network><name>bare</name></network>")
        with pytest.raises(OperationInvalid, match="network 'bare' has no IPv4 address"):
            await bare.require_uplink().forward("52:54:00:00:00:01", 22, "tcp")
        uplink = networks.by_name("default").require_uplink()
        await networks.destroy(networks.by_name("default"))
        with pytest.raises(OperationInvalid, match="network 'default' is not active"):
            await uplink.forward("52:54:00:00:00:01", 22, "tcp")
