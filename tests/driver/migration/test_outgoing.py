"""Guests that go from one root to another in this process: that they arrive, and that they stay when they cannot."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import (
    DomainCreateFlags,
    DomainDestroyFlagsValues,
    DomainJobType,
    DomainUndefineFlagsValues,
)
from pytest_embedvm.constants import DomainGetJobStatsFlags as Stats
from pytest_embedvm.constants import DomainXMLFlags as Xml
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.events import Event, MonitorEvent
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.migration import control as migration_control
from pytest_embedvm.driver.migration import outgoing as migration
from pytest_embedvm.driver.migration.incoming import Incoming
from pytest_embedvm.driver.migration.outgoing import Plan, migrate
from pytest_embedvm.driver.migration.peer import Arrival, Offer
from pytest_embedvm.errors import (
    ConfigUnsupported,
    EmbedError,
    InternalError,
    NoDomain,
    NumericalOverflow,
    OperationAborted,
    OperationFailed,
    OperationInvalid,
    OperationTimeout,
    SystemFailure,
)
from pytest_embedvm.qemu.capabilities import Capabilities
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, exists, state

LIVE = Plan(live=True)
#: So much memory that QEMU cannot send even empty pages without somebody who reads.
LARGE = "<memory unit='MiB'>1024</memory>"


class Two:
    """A guest that runs in one root, and another root."""

    def __init__(self, a: Driver, b: Driver, guest: Path) -> None:
        self.a, self.b, self.guest = a, b, guest
        self.a_events, self.b_events = Events(a), Events(b)

    async def start(self, flags: int = 0, *, xml: str = "", **keywords: str) -> Machine:
        machine = await self.a.create_xml(xml or tiny.xml(self.guest, **keywords), flags)
        await self.a_events.so_far(machine)
        return machine

    async def move(self, machine: Machine, plan: Plan = LIVE) -> Machine:
        arrival = await migrate(machine, Incoming(self.b), plan)
        return self.b.by_name(arrival.name)

    def interrupted(self, machine: Machine) -> list[str]:
        """What is told of a guest that was being sent when that ended: whether it ran meanwhile depends on QEMU."""
        qemu = self.a.host.capabilities(machine.definition.devices.emulator or "")
        return ["SUSPENDED/MIGRATED", "RESUMED/MIGRATED"] if qemu.loses_emulated_memory else []

    async def assert_stays(self, machine: Machine, events: tuple[list[str], ...] = ([],)) -> None:
        """It runs here, nothing of it is there, and nothing hinders the next attempt."""
        assert state(machine)[0] == "RUNNING"
        assert await self.a_events.so_far(machine) in events
        await tiny.tell(self.guest, b"x")
        assert self.b.machines() == []
        assert not machine.long_job.active
        left = {p for p in self.b.root.path.rglob("*") if p.is_socket() or p.suffix == ".pid" or "domain-" in p.name}
        assert left == {self.b.root.driver_socket, self.b.root.path / "run/qemu/driver.pid"}


@contextlib.asynccontextmanager
async def two(embed: OpenDriver, tmp_path: Path) -> AsyncIterator[Two]:
    async with embed(tmp_path / "a") as a, embed(tmp_path / "b") as b:
        yield Two(a, b, tmp_path / "guest")


# It arrives


async def test_a_running_guest_goes_on_elsewhere(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        pid = machine.running.process.pid
        text = machine.xml(Xml.INACTIVE)
        moved = await roots.move(machine)
        assert await roots.a_events.so_far(machine) == ["SUSPENDED/MIGRATED", "STOPPED/MIGRATED"]
        assert await roots.b_events.so_far(moved) == ["STARTED/MIGRATED", "RESUMED/MIGRATED"]
        assert state(moved) == ("RUNNING", "MIGRATED")
        assert machine.status.reason == 4  # SHUTOFF_MIGRATED
        assert not exists(pid)
        assert roots.a.machines() == []
        assert (moved.name, moved.uuid, moved.id) == (machine.name, machine.uuid, 1)
        assert moved.xml(Xml.INACTIVE) == text
        assert not moved.persistent
        assert not moved.autodestroy
        await tiny.tell(roots.guest, b"x")


async def test_there_and_back_again(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        for home, away in ((roots.a, roots.b), (roots.b, roots.a), (roots.a, roots.b)):
            assert machine.driver is home
            machine = away.by_name((await migrate(machine, Incoming(away), LIVE)).name)
            await tiny.tell(roots.guest, b"x")
        await tiny.tell(roots.guest, tiny.RESET)
        assert await roots.b_events.until("REBOOT")
    assert not (roots.guest / "com1").exists()


async def test_the_power_is_its_own_there(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        moved = await roots.move(await roots.start())
        await roots.b_events.so_far(moved)
        await tiny.tell(roots.guest, tiny.POWER_OFF)
        assert await roots.b_events.until("STOPPED/SHUTDOWN") == ["SHUTDOWN/GUEST", "STOPPED/SHUTDOWN"]


async def test_not_live(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        moved = await roots.move(machine, Plan())
        assert await roots.a_events.so_far(machine) == ["SUSPENDED/MIGRATED", "STOPPED/MIGRATED"]
        assert state(moved) == ("RUNNING", "MIGRATED")
        await tiny.tell(roots.guest, b"x")


async def test_a_paused_guest_stays_paused(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(DomainCreateFlags.START_PAUSED)
        moved = await roots.move(machine)
        assert await roots.a_events.so_far(machine) == ["STOPPED/MIGRATED"]
        assert await roots.b_events.so_far(moved) == ["STARTED/MIGRATED", "SUSPENDED/PAUSED"]
        assert state(moved) == ("PAUSED", "USER")
        await moved.resume()
        await tiny.tell(roots.guest, b"x")


async def test_a_running_guest_can_be_paused_there(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        moved = await roots.move(await roots.start(), Plan(live=True, paused=True))
        assert state(moved) == ("PAUSED", "USER")


async def test_a_definition_stays_here_unless_it_is_undefined(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.a.define_xml(tiny.xml(roots.guest))
        await machine.create()
        moved = await roots.move(machine)
        assert (machine.persistent, moved.persistent) == (True, False)
        assert roots.a.machines() == [machine]
        await moved.destroy()
        assert roots.b.machines() == []
        await machine.create()
        await roots.a_events.so_far(machine)
        moved = await roots.move(machine, Plan(live=True, persist=True, undefine=True))
        # libvirt: no UNDEFINED
        assert await roots.a_events.so_far(machine) == ["SUSPENDED/MIGRATED", "STOPPED/MIGRATED"]
        assert (await roots.b_events.so_far(moved))[-3:] == ["STARTED/MIGRATED", "DEFINED/ADDED", "RESUMED/MIGRATED"]
        assert roots.a.machines() == []
        assert not roots.a.root.definition_path("a").exists()
        assert roots.b.root.definition_path("a").exists()
        await moved.destroy()
        assert roots.b.machines() == [moved]


async def test_a_definition_that_is_there_becomes_alive(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        there = await roots.b.define_xml(tiny.xml(roots.guest))
        moved = await roots.move(await roots.start())
        assert moved is there
        assert moved.persistent
        await moved.destroy()
        assert roots.b.machines() == [there]


async def test_another_name(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(devices="<channel type='unix'><target type='virtio' name='p'/></channel>")
        moved = await roots.move(machine, Plan(live=True, name="b", persist=True))
        assert moved.name == "b"
        assert moved.uuid == machine.uuid
        assert (roots.b.root.path / "lib/qemu/channel/target/b/p").is_socket()
        assert "<name>b</name>" in roots.b.root.definition_path("b").read_text()


async def test_what_stands_behind_devices_may_change(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        there = tmp_path / "there"
        there.mkdir()
        xml = machine.xml(Xml.MIGRATABLE).replace(str(roots.guest / "com1"), str(there / "com1"))
        await roots.move(machine, Plan(live=True, xml=xml))
        await tiny.tell(there, b"x")
        assert not (roots.guest / "com1").exists()


async def test_what_a_file_holds_is_kept(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        log = tmp_path / "com2.log"
        machine = await roots.start(devices=f"<serial type='file'><source path='{log}'/></serial>")
        log.write_bytes(b"before")
        await roots.move(machine)
        assert log.read_bytes() == b"before"


async def test_the_variable_store_comes_along(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        code, variables = tmp_path / "code.fd", tmp_path / "vars.fd"
        code.write_bytes(tiny.firmware())
        variables.write_bytes(bytes(65536))
        flash = f"<loader readonly='yes' type='pflash'>{code}</loader><nvram template='{variables}'/>"
        text = tiny.xml(roots.guest, extra="<features><acpi/></features>")
        xml = text[: text.index("<loader")] + flash + text[text.index("</loader>") + 9 :]
        machine = await roots.start(xml=xml)
        here, there = (d.root.path / "lib/qemu/nvram/a/VARS.fd" for d in (roots.a, roots.b))
        here.write_bytes(b"changed" + bytes(65529))  # QEMU read it at the start: only the file's copy tells
        variables.unlink()
        moved = await roots.move(machine)
        assert there.stat().st_size == 65536
        assert moved.live.os.nvram.path == str(there)
        assert str(here) not in moved.xml()


async def test_only_the_definition(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.a.define_xml(tiny.xml(roots.guest))
        with pytest.raises(OperationInvalid, match="offline migration must be specified with the persistent flag set"):
            await roots.move(machine, Plan(offline=True))
        moved = await roots.move(machine, Plan(offline=True, persist=True, undefine=True))
        assert await roots.b_events.so_far(moved) == ["DEFINED/ADDED"]
        assert roots.a.machines() == []
        assert (moved.active, moved.persistent) == (False, True)
        await moved.create()
        await tiny.tell(roots.guest, b"x")
        await moved.destroy()
        await moved.undefine(DomainUndefineFlagsValues(0))


async def test_who_ends_with_a_connection_still_does(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(DomainCreateFlags.START_AUTODESTROY)
        client = Client()
        await Driver.open(roots.b.uri)
        await migrate(machine, Incoming(roots.b, client), LIVE)
        assert roots.b.by_name("a").owner is client
        await roots.b.close(client)
        assert roots.b.machines() == []


async def test_the_figures_of_a_migration(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        assert await migration_control.stats(machine) == {"type": DomainJobType.NONE}
        moved = await roots.move(machine)
        kept = await migration_control.stats(moved, Stats.COMPLETED | Stats.KEEP_COMPLETED)
        assert kept["type"] == DomainJobType.COMPLETED
        assert kept["memory_total"] >= 32 * 2**20
        assert kept["data_remaining"] == 0
        assert await migration_control.stats(moved, Stats.COMPLETED) == kept
        assert await migration_control.stats(moved, Stats.COMPLETED) == {"type": DomainJobType.NONE}


async def test_what_is_remembered_for_migrations(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        assert await migration_control.max_downtime(machine) == 300
        await migration_control.set_max_downtime(machine, 500)
        assert await migration_control.max_downtime(machine) == 500
        assert machine.long_job.max_speed == 8796093022207  # libvirt 9.0, measured
        await migration_control.set_max_speed(machine, 64)
        with pytest.raises(NumericalOverflow, match="bandwidth must be less than 8796093022208"):
            await migration_control.set_max_speed(machine, 8796093022208)
        assert machine.long_job.max_speed == 64
        await roots.move(machine)


# It stays


class Stalled(Incoming):
    """A destination that reads nothing of what is sent."""

    async def prepare(self, offer: Offer) -> Path | None:
        place = await super().prepare(offer)
        self._running.process.send_signal(signal.SIGSTOP)
        return place


@contextlib.asynccontextmanager
async def stalled(
    roots: Two, machine: Machine, plan: Plan = LIVE
) -> AsyncIterator[tuple[asyncio.Task[Arrival], Stalled]]:
    """A migration that is under way and gets no further."""
    peer, sending = Stalled(roots.b), asyncio.Event()
    loop = asyncio.get_running_loop()

    def note(_machine: Machine, event: Event) -> None:
        if isinstance(event, MonitorEvent) and event.name == "MIGRATION" and "active" in (event.details or ""):
            loop.call_soon_threadsafe(sending.set)

    roots.a.events.register(None, machine, note)
    task = asyncio.ensure_future(migrate(machine, peer, plan))
    await asyncio.wait_for(sending.wait(), 30)
    yield task, peer


def large(roots: Two) -> str:
    return tiny.xml(roots.guest).replace("<memory unit='MiB'>32</memory>", LARGE)


async def test_the_destination_dies(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, peer):
            peer._running.process.send_signal(signal.SIGKILL)
            with pytest.raises(
                OperationFailed, match=r"job 'migration out' failed|Lost connection to destination host"
            ):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))
        assert (await roots.b_events.until("STOPPED/FAILED")) == ["STARTED/MIGRATED", "STOPPED/FAILED"]
        await roots.move(machine)
        await tiny.tell(roots.guest, b"x")


async def test_somebody_calls_it_off(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        with pytest.raises(OperationInvalid, match="no job is active on the domain"):
            await migration_control.abort(machine)
        async with stalled(roots, machine) as (task, peer):
            figures = await migration_control.stats(machine)
            assert figures["type"] == DomainJobType.UNBOUNDED
            assert figures["memory_remaining"] > 0
            with pytest.raises(OperationInvalid, match="migration statistics are available only on the source host"):
                await migration_control.stats(peer._machine)
            with pytest.raises(OperationInvalid, match="cannot abort incoming migration"):
                await migration_control.abort(peer._machine)
            await migration_control.abort(machine)
            with pytest.raises(OperationAborted, match=r"^operation aborted: job 'migration out' canceled by client$"):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


@pytest.mark.parametrize(("loses", "meanwhile"), [(True, "PAUSED"), (False, "RUNNING")])
async def test_an_emulated_guest_runs_meanwhile_if_this_qemu_loses_nothing_then(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loses: bool, meanwhile: str
) -> None:
    monkeypatch.setattr(Capabilities, "loses_emulated_memory", loses)
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, _):
            assert state(machine)[0] == meanwhile
            await migration_control.abort(machine)
            with pytest.raises(OperationAborted):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


async def test_who_waits_is_interrupted(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, _):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


async def test_it_takes_too_long(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PERFORM_TIMEOUT_S", 0.5)
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, _):
            with pytest.raises(OperationTimeout, match=r"did not end within .* s; last seen: migration active"):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


async def test_an_io_error_meanwhile(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine, Plan(live=True, abort_on_error=True)) as (task, _):
            machine.running.transfer.report_io_error()
            with pytest.raises(OperationFailed, match="job 'migration out' failed due to I/O error"):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


async def test_the_source_is_destroyed_meanwhile(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, _):
            await machine.destroy(DomainDestroyFlagsValues.DEFAULT)
            with pytest.raises(EmbedError):
                await task
        assert roots.a.machines() == roots.b.machines() == []


async def test_the_destination_is_destroyed_meanwhile(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start(xml=large(roots))
        async with stalled(roots, machine) as (task, peer):
            await peer._machine.destroy(DomainDestroyFlagsValues.DEFAULT)
            with pytest.raises(OperationFailed):
                await task
        await roots.assert_stays(machine, (roots.interrupted(machine),))


async def test_the_destinations_root_is_closed_meanwhile(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "a") as a:
        machine = await a.create_xml(tiny.xml(tmp_path / "guest").replace("<memory unit='MiB'>32</memory>", LARGE))
        b = await Driver.open(a.uri.replace("/a", "/b"))
        roots = Two(a, b, tmp_path / "guest")
        async with stalled(roots, machine) as (task, _):
            await b.close()
            with pytest.raises(OperationFailed):
                await task
        assert state(machine)[0] == "RUNNING"
        await tiny.tell(tmp_path / "guest", b"x")


class Unable(Incoming):
    """A destination that has everything, and cannot let it run."""

    async def _let_run(self, machine: Machine, offer: Offer) -> None:
        await self._loaded(machine)
        raise InternalError("resume operation failed")


async def test_the_destination_cannot_let_it_run(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        with pytest.raises(InternalError, match="resume operation failed"):
            await migrate(machine, Unable(roots.b), LIVE)
        await roots.assert_stays(machine, (["SUSPENDED/MIGRATED", "RESUMED/MIGRATED"],))
        assert state(machine) == ("RUNNING", "MIGRATION_CANCELED")
        await roots.move(machine)


class Doubtful(Unable):
    """One of which nobody hears whether it is gone."""

    async def abandon(self) -> str:
        await super().abandon()
        raise OperationTimeout("the destination did not answer 'abandon' within 60 s")


async def test_nobody_knows_whether_it_runs_there(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        with pytest.raises(OperationFailed, match="stays paused here, because it may run there"):
            await migrate(machine, Doubtful(roots.b), LIVE)
        assert state(machine) == ("PAUSED", "MIGRATION")
        await machine.resume()
        await tiny.tell(roots.guest, b"x")


async def test_the_name_is_taken(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        other = await roots.b.define_xml(tiny.xml(tmp_path / "other", number=2))
        with pytest.raises(OperationFailed, match=r"domain 'a' already exists with uuid 11111111-.*2$"):
            await roots.move(machine)
        await other.undefine(0)
        await roots.assert_stays(machine)


async def test_it_runs_there_already(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        other = await roots.b.create_xml(tiny.xml(tmp_path / "other"))
        with pytest.raises(OperationInvalid, match="domain 'a' is already active"):
            await roots.move(machine)
        await other.destroy()
        await roots.assert_stays(machine)


async def test_another_machine_is_refused_before_anything_happens(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        xml = machine.xml(Xml.MIGRATABLE).replace("pc-q35-7.2", "pc-q35-7.1")
        with pytest.raises(ConfigUnsupported, match=r"Target domain machine type pc-q35-7\.1 does not match source"):
            await roots.move(machine, Plan(xml=xml))
        await roots.assert_stays(machine)


async def test_a_disk_is_missing_there(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        disk = tmp_path / "d.img"
        disk.write_bytes(bytes(1 << 20))
        device = f"<disk type='file'><driver type='raw'/><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>"
        machine = await roots.start(devices=device)
        disk.rename(tmp_path / "e.img")
        with pytest.raises(SystemFailure, match="Cannot access storage file"):
            await roots.move(machine)
        await roots.assert_stays(machine)
        (tmp_path / "e.img").rename(disk)
        await roots.move(machine)


async def test_qemu_does_not_start_there(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        (roots.guest / "tiny.fd").rename(tmp_path / "away")
        with pytest.raises(InternalError, match="could not load PC BIOS"):
            await roots.move(machine)
        await roots.assert_stays(machine)


async def test_what_comes_cannot_be_loaded(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        rom = roots.guest / "tiny.fd"
        rom.write_bytes(bytes(65536) + rom.read_bytes())  # a ROM of another size is another machine
        with pytest.raises(InternalError, match=r"guest unexpectedly quit: (.|\n)*pc\.bios"):
            await roots.move(machine)
        await roots.assert_stays(machine, ([], ["SUSPENDED/MIGRATED", "RESUMED/MIGRATED"]))


async def test_a_domain_that_does_not_run(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.a.define_xml(tiny.xml(roots.guest))
        with pytest.raises(OperationInvalid, match="domain is not running"):
            await roots.move(machine)
        for ask in (migration_control.stats, migration_control.abort, migration_control.max_downtime):
            with pytest.raises(OperationInvalid, match="domain is not running"):
                await ask(machine)
        await migration_control.set_max_speed(machine, 10)


async def test_two_at_once(embed: OpenDriver, tmp_path: Path) -> None:
    async with two(embed, tmp_path) as roots:
        machine = await roots.start()
        first = asyncio.ensure_future(roots.move(machine))
        second = asyncio.ensure_future(roots.move(machine))
        moved, error = sorted(
            await asyncio.gather(first, second, return_exceptions=True), key=lambda each: isinstance(each, Exception)
        )
        assert isinstance(moved, Machine)
        assert isinstance(error, NoDomain | OperationInvalid)
        await tiny.tell(roots.guest, b"x")
