"""The networks of a root: what is there, what stays, what is refused."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.host import EmbedHost
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.network.private import PrivateNetworks
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.secret.private import PrivateSecrets
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.errors import EmbedError, NoNetwork, OperationFailed, OperationInvalid
from pytest_embedvm.logs import HOST
from tests.driver import tiny
from tests.driver.conftest import OpenDriver

XML = "<network><name>{}</name>{}</network>"


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[PrivateNetworks]:
    root = Root(path)
    events = EventHub(HOST)
    storage = PrivateStorage(events, PrivateSecrets(events))
    networks = PrivateNetworks(events, EmbedHost(root, Config.read(path), storage))
    await networks.initialize(privileged=False, root=root)
    try:
        yield networks
    finally:
        await networks.cleanup()


def listed(networks: PrivateNetworks) -> dict[str, tuple[bool, bool, bool]]:
    return {n.name: (n.active, n.persistent, n.autostart) for n in networks}


def definitions(root: Path) -> list[Path]:
    return [path for path in root.rglob("*.xml") if not path.is_symlink()]


async def test_a_new_root_has_a_network_and_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        assert listed(networks) == {"default": (True, True, True)}
        assert "<dhcp>" in networks.by_name("default").xml(inactive=False)
    assert definitions(tmp_path) == []


async def test_what_is_defined_stays(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        one = networks.define(XML.format("one", "<mtu size='9000'/>"))
        networks.set_autostart(networks.define(XML.format("two", "")), on=True)
        await networks.create(XML.format("three", ""))
        default = networks.by_name("default").uuid
        assert listed(networks)["three"] == (True, False, False)
    async with opened(tmp_path) as networks:
        assert listed(networks) == {
            "default": (True, True, True), "one": (False, True, False), "two": (True, True, True),
        }  # fmt: skip
        assert networks.by_name("one").network == one.network
        assert networks.by_uuid(default).name == "default"
        assert {path.stat().st_mode & 0o777 for path in definitions(tmp_path)} == {0o600}


async def test_the_default_may_be_undefined_for_good(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        default = networks.by_name("default")
        networks.undefine(default)
        assert listed(networks) == {"default": (True, False, False)}
        await networks.destroy(default)
        assert listed(networks) == {}
    async with opened(tmp_path) as networks:
        assert listed(networks) == {}


async def test_a_redefinition_keeps_identity(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        first = networks.define(XML.format("one", ""))
        was = (first.uuid, first.network.mac, first.bridge_name)
        again = networks.define(XML.format("one", "<domain name='test'/>"))
        assert again is first
        assert (again.uuid, again.network.mac) == was[:2]
        assert [n.name for n in networks] == ["default", "one"]
        assert len({n.bridge_name for n in networks}) == 2


async def test_what_is_active_goes_on_as_it_is_until_it_is_started_anew(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        default = networks.by_name("default")
        networks.define(XML.format("default", "<mtu size='1400'/>"))
        assert "mtu" not in default.xml(inactive=False)
        assert "<mtu size='1400'/>" in default.xml(inactive=True)
        assert default.require_segment().gateway.mtu is None
        await networks.destroy(default)
        await networks.start(default)
        assert default.require_segment().gateway.mtu == 1400
        assert "<mtu size='1400'/>" in default.xml(inactive=False)


@pytest.mark.parametrize(
    ("name", "more", "error", "says"),
    [
        ("other", "<uuid>11111111-1111-1111-1111-111111111111</uuid>", OperationFailed, "already defined with uuid"),
        ("one", "<uuid>22222222-2222-2222-2222-222222222222</uuid>", OperationFailed, "already exists with uuid"),
        ("a/b", "", EmbedError, "cannot contain '/'"),
        ("x", "<forward mode='bridge'/>", EmbedError, "forward mode 'bridge' needs the host's network"),
        ("x", "<ip address='10.0.0.1' prefix='24'><dhcp><range start='10.0.1.2' end='10.0.1.9'/></dhcp></ip>",
         EmbedError, "not entirely within network 10.0.0.0/24"),
        ("x", "<ip address='10.0.0.1' prefix='24' netmask='255.0.0.0'/>", EmbedError, "both netmask and prefix"),
        ("x", "<ip family='ipv6' address='10.0.0.1'/>", EmbedError, "ipv4 address '10.0.0.1'"),
        ("x", "<ip address='nowhere'/>", EmbedError, "Bad address 'nowhere'"),
        ("x", "<mtu size='10'/>", EmbedError, "mtu size 10"),
        ("x", "<vlan><tag id='1'/></vlan>", EmbedError, "network/vlan"),
        ("", "", EmbedError, "missing name"),
    ],
)  # fmt: skip
async def test_what_is_refused_leaves_nothing(
    tmp_path: Path, name: str, more: str, error: type[EmbedError], says: str
) -> None:
    async with opened(tmp_path) as networks:
        networks.define(XML.format("one", "<uuid>11111111-1111-1111-1111-111111111111</uuid>"))
        before = listed(networks)
        with pytest.raises(error, match=says):
            networks.define(XML.format(name, more))
        assert listed(networks) == before


async def test_what_is_not_there_or_not_in_that_state(tmp_path: Path) -> None:
    async with opened(tmp_path) as networks:
        with pytest.raises(NoNetwork, match="no network with matching name 'x'"):
            networks.by_name("x")
        default = networks.by_name("default")
        with pytest.raises(OperationInvalid, match="network is already active"):
            await networks.start(default)
        await networks.destroy(default)
        with pytest.raises(OperationInvalid, match="network 'default' is not active"):
            await networks.destroy(default)
        transient = await networks.create(XML.format("t", ""))
        with pytest.raises(OperationInvalid, match="can't undefine transient network"):
            networks.undefine(transient)
        with pytest.raises(OperationInvalid, match="cannot set autostart for transient network"):
            networks.set_autostart(transient, on=True)
        await networks.destroy(transient)
        with pytest.raises(NoNetwork):
            networks.by_uuid(transient.uuid)


async def test_a_definition_that_cannot_be_read_is_kept_and_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "etc/qemu/networks"
    folder.mkdir(parents=True)
    (folder / "bad.xml").write_text("<network>")
    async with opened(tmp_path) as networks:
        assert listed(networks) == {}
    assert [path.name for path in folder.iterdir()] == ["bad.xml.unreadable"]
    assert "bad.xml" in caplog.text


NETWORKED = "<interface type='network'><mac address='52:54:00:00:00:01'/><source network='{}'/></interface>"


async def test_a_machine_is_on_its_network_as_long_as_it_runs(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, devices=NETWORKED.format("default")))
        default = driver.networks.by_name("default")
        assert "connections='1'" in default.xml(inactive=False)
        assert [link.connected for link in default.require_segment().links.values()] == [True]
        await machine.destroy()
        assert default.require_segment().links == {}


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [("x", NoNetwork, "no network with matching name 'x'"), ("off", OperationInvalid, "network 'off' is not active")],
)
async def test_a_machine_whose_network_is_not_there_does_not_start(
    embed: OpenDriver, tmp_path: Path, name: str, error: type[EmbedError], says: str
) -> None:
    async with embed() as driver:
        driver.networks.define(XML.format("off", ""))
        with pytest.raises(error, match=says):
            await driver.create_xml(tiny.xml(tmp_path, devices=NETWORKED.format(name)), DomainCreateFlags.NONE)
        assert driver.machines() == []
        assert not list((driver.root.path / "lib/qemu").rglob("*.sock"))


async def test_a_network_that_ends_leaves_its_machines_running(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, devices=NETWORKED.format("default")))
        default = driver.networks.by_name("default")
        await driver.networks.destroy(default)
        await tiny.tell(tmp_path, b"x")
        assert machine.active
        await driver.networks.start(default)
        await machine.destroy()
