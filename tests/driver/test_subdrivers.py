"""The drivers of a root: their order, their failures, and what a connection has of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags, ErrorDomain, ErrorNumber
from pytest_embedvm.driver import persist
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.migration.server import Server
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import Mode, Uri, make_uri
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, HostMissing, InvalidArgument, SystemFailure
from tests.driver import tiny
from tests.driver.conftest import OpenDriver, exists

PAUSED = DomainCreateFlags.START_PAUSED


class Recorder:
    """A driver that writes down what it is told."""

    def __init__(self, name: str, told: list[object], *, fails: EmbedError | None = None) -> None:
        self.name = name
        self.told = told
        self.fails = fails
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        self.told.append((self.name, privileged, root.path))
        await self.goes_on.wait()
        if self.fails:
            raise self.fails

    async def cleanup(self) -> None:
        self.told.append(self.name)
        if self.fails:
            raise self.fails


Put = Callable[..., None]


@pytest.fixture
def roster(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Has roots other drivers than theirs."""

    def put(*drivers: Recorder) -> None:
        monkeypatch.setattr(Driver, "_secondary", lambda _self: list(drivers))

    return put


def names(told: list[object]) -> list[object]:
    return [word if isinstance(word, str) else f"+{word[0]}" for word in told]  # type: ignore[index]


async def test_they_begin_in_order_and_end_in_reverse_with_the_last_connection(
    embed: OpenDriver, tmp_path: Path, roster: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    told: list[object] = []
    roster(Recorder("first", told), Recorder("second", told))
    async with embed() as driver:
        root = driver.root.path
        assert told == [("first", True, root), ("second", True, root)]
        async with embed():
            assert len(told) == 2
        assert len(told) == 2
    assert told[2:] == ["second", "first"]


async def test_qemu_s_is_the_last_to_begin_and_the_first_to_end(
    embed: OpenDriver, tmp_path: Path, roster: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Watcher(Recorder):
        async def cleanup(self) -> None:
            told.append([exists(pid) for pid in pids])

    async with embed() as driver:
        await driver.define_xml(tiny.xml(tmp_path))
    told: list[object] = []
    pids: list[int] = []
    real = persist.load
    monkeypatch.setattr(persist, "load", lambda root: told.append("qemu") or real(root))
    roster(Watcher("other", told))
    async with embed() as driver:
        assert names(told) == ["+other", "qemu"]
        machine = driver.by_name("a")
        await machine.create(PAUSED)
        assert machine._running
        pids.append(machine._running.process.pid)
    assert told[2:] == [[False]]


async def test_a_root_that_a_driver_cannot_honour_is_refused_and_free_again(tmp_path: Path, roster: Put) -> None:
    told: list[object] = []
    refusal = InvalidArgument("Driver does not support embedded mode", origin=ErrorDomain.STORAGE)
    roster(Recorder("one", told), Recorder("two", told), Recorder("bad", told, fails=refusal), Recorder("last", told))
    with pytest.raises(InvalidArgument) as raised:
        await Driver.open(make_uri(tmp_path))
    assert raised.value is refusal
    assert names(told) == ["+one", "+two", "+bad", "two", "one"]
    assert not (tmp_path / "run/qemu/driver.pid").exists()
    roster()
    await (await Driver.open(make_uri(tmp_path))).close()


async def test_when_qemu_s_fails_the_others_end(tmp_path: Path, roster: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: Root) -> None:
        raise SystemFailure("no such luck")

    told: list[object] = []
    roster(Recorder("one", told), Recorder("two", told))
    monkeypatch.setattr(persist, "load", fail)
    with pytest.raises(SystemFailure, match="no such luck"):
        await Driver.open(make_uri(tmp_path))
    assert names(told) == ["+one", "+two", "two", "one"]
    assert not (tmp_path / "run/qemu/driver.pid").exists()


async def test_what_qemu_s_had_taken_up_when_it_failed_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, client = make_uri(tmp_path / "root"), Client(Options(keep_running=True))
    driver = await Driver.open(uri, client.options)
    machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED, client)
    assert machine._running
    pid = machine._running.process.pid
    await driver.close(client)
    with monkeypatch.context() as patch:

        def fail(server: Server) -> None:
            raise SystemFailure("no socket today")

        patch.setattr(Server, "open", fail)
        with pytest.raises(SystemFailure, match="no socket today"):
            await Driver.open(uri)
    assert exists(pid)  # it is kept, and nobody watches it
    assert asyncio.all_tasks() == {asyncio.current_task()}
    driver = await Driver.open(uri)
    assert driver.by_name("a").active
    await driver.by_name("a").destroy()
    await driver.close()
    assert not exists(pid)


async def test_one_that_does_not_end_well_keeps_none_from_ending(tmp_path: Path, roster: Put) -> None:
    told: list[object] = []
    bad = Recorder("bad", told)
    roster(Recorder("one", told), bad, Recorder("three", told))
    driver = await Driver.open(make_uri(tmp_path))
    bad.fails = SystemFailure("it stays")
    with pytest.raises(SystemFailure, match="it stays"):
        await driver.close()
    assert names(told)[3:] == ["three", "bad", "one"]
    assert not driver.root.pid_file.exists()


async def test_who_opens_while_another_opens_waits_for_it(tmp_path: Path, roster: Put) -> None:
    told: list[object] = []
    slow = Recorder("slow", told)
    slow.goes_on.clear()
    roster(slow)
    opening = [asyncio.ensure_future(Driver.open(make_uri(tmp_path))) for _ in range(3)]
    await asyncio.sleep(0)
    slow.goes_on.set()
    drivers = await asyncio.gather(*opening)
    assert drivers[0] is drivers[1] is drivers[2]
    assert names(told) == ["+slow"]
    for driver in drivers:
        await driver.close()
    assert names(told) == ["+slow", "slow"]


async def test_who_waited_for_an_opening_that_failed_tries_himself(tmp_path: Path, roster: Put) -> None:
    class FailsOnce(Recorder):
        async def initialize(self, *, privileged: bool, root: Root) -> None:
            await super().initialize(privileged=privileged, root=root)
            if names(told) == ["+slow"]:
                raise SystemFailure("not yet")

    told: list[object] = []
    slow = FailsOnce("slow", told)
    slow.goes_on.clear()
    roster(slow)
    opening = [asyncio.ensure_future(Driver.open(make_uri(tmp_path))) for _ in range(2)]
    await asyncio.sleep(0)
    slow.goes_on.set()
    with pytest.raises(SystemFailure, match="not yet"):
        await opening[0]
    driver = await opening[1]
    await driver.close()
    assert names(told) == ["+slow", "+slow", "slow"]


@pytest.mark.parametrize("name", ["network", "secret", "storage"])
async def test_a_driver_that_the_host_does_not_have_keeps_the_root_closed(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, embed: OpenDriver
) -> None:
    monkeypatch.setitem(sys.modules, "libvirt", None)
    with pytest.raises(HostMissing, match="libvirt-python"):
        await Driver.open(make_uri(tmp_path / "root", **{name: "host"}))
    assert not (tmp_path / "root/run/qemu/driver.pid").exists()
    async with embed(tmp_path / "root") as driver:
        with pytest.raises(HostMissing, match="libvirt-python"):
            await Driver.open(make_uri(tmp_path / "root", **{name: "host"}))
        assert driver.machines() == []


NETWORKED = "<interface type='network'><source network='default'/></interface>"
NEEDS = (
    "/domain/devices/interface calls the network driver: an interface of type 'network' is a port of network 'default'"
)


VOLUME = "<disk type='volume'><source pool='p' volume='v'/></disk>"
NEEDS_STORAGE = (
    "/domain/devices/disk calls the storage driver: a source of type 'volume' is volume 'v' of storage pool 'p'"
)


@pytest.mark.parametrize(
    ("uri", "device", "why"),
    [
        ({"network": "none"}, NETWORKED, f"{NEEDS} (this connection was opened with network=none)"),
        ({"storage": "none"}, VOLUME, f"{NEEDS_STORAGE} (this connection was opened with storage=none)"),
    ],
    ids=["network", "storage"],
)
async def test_a_start_that_calls_a_driver_that_is_not_there_says_which_and_why(
    embed: OpenDriver, tmp_path: Path, uri: dict[str, Mode], device: str, why: str
) -> None:
    client = Client(uri=Uri(root=tmp_path, **uri))
    # The lease is an element that this driver does not support at all: that would be the complaint.
    unsupported = "<lease><lockspace>x</lockspace><key>y</key></lease>"
    async with embed() as driver:
        with pytest.raises(ConfigUnsupported) as raised:
            await driver.create_xml(tiny.xml(tmp_path, devices=unsupported + device), PAUSED, client)
        assert raised.value.message == f"unsupported configuration: {why}"
        assert driver.machines() == []


async def test_every_driver_that_is_missing_is_named(embed: OpenDriver, tmp_path: Path) -> None:
    devices = f"{NETWORKED}{VOLUME}<hostdev type='usb'/>"
    async with embed() as driver:
        with pytest.raises(ConfigUnsupported) as raised:
            await driver.create_xml(
                tiny.xml(tmp_path, devices=devices), 0, Client(uri=Uri(root=tmp_path, network="none", storage="none"))
            )
    found = [part.rpartition("(")[2] for part in raised.value.message.split("; ")]
    assert found == [
        "this connection was opened with network=none)",
        "this connection was opened with storage=none)",
        "a root has no nodedev driver)",
    ]
    assert raised.value.code is ErrorNumber.CONFIG_UNSUPPORTED


async def test_a_connection_without_them_starts_what_calls_none(embed: OpenDriver, tmp_path: Path) -> None:
    alone = Client(uri=Uri(root=tmp_path, network="none", secret="none", storage="none"))
    async with embed() as driver:
        assert (await driver.create_xml(tiny.xml(tmp_path), PAUSED, alone)).active
