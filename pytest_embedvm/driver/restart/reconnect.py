"""Taking up the machines that an earlier process left running, and finding out what happened to them since."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.constants import (
    DomainPausedReason,
    DomainState,
)
from pytest_embedvm.domain import block, definition
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.backends.chardev import chardev_id
from pytest_embedvm.domain.consoles import learn, learn_state
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.driver import blockjobs, logs, react, state, stop
from pytest_embedvm.driver.companions import Companions, end
from pytest_embedvm.driver.descriptors import Beside, adopt_request, connect_unix
from pytest_embedvm.driver.guest_agent import AgentChannel
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.restart import pending, reaper, status
from pytest_embedvm.driver.restart.record import Record
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.secret.vault import Vault
from pytest_embedvm.driver.start import MONITOR
from pytest_embedvm.driver.state import Ending
from pytest_embedvm.errors import EmbedError, SystemFailure
from pytest_embedvm.files import set_aside
from pytest_embedvm.qemu.monitor import CommandError, Monitor
from pytest_embedvm.qemu.process import Process
from pytest_embedvm.units import KIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.driver import Driver

#: QEMU's runstates that mean a guest is paused, and why. libvirt: qemuMonitorStatus, qemuProcessUpdateState
PAUSED: Final = {
    "paused": DomainPausedReason.UNKNOWN,
    "prelaunch": DomainPausedReason.UNKNOWN,
    "internal-error": DomainPausedReason.UNKNOWN,
    "debug": DomainPausedReason.UNKNOWN,
    "io-error": DomainPausedReason.IOERROR,
    "watchdog": DomainPausedReason.WATCHDOG,
}


async def reconnect(driver: Driver) -> bool:
    """Take up each machine that is on record in DRIVER's root; whether there was one.

    One that is lost is reported, and is no error.
    """
    paths = sorted(driver.root.directory(*PLACES["run"]).glob("*.xml"))
    records = list(_records(driver, paths))
    await asyncio.gather(*(_take_up(driver, record) for record in records))
    if len(records) == len(paths):  # else something may run that nobody knows of
        _sweep(driver.root, {record.name: record for record in records if _is_active(driver, record)})
    return bool(records)


def _is_active(driver: Driver, record: Record) -> bool:
    machine = driver.registry.find_name(record.name)
    return machine is not None and machine.active


def _sweep(root: Root, running: Mapping[str, Record]) -> None:
    """Remove what a process left that was killed before it could put a machine on record."""
    kept = {root.runtime_directory(record.id, record.name) for record in running.values()}
    for home in root.directory(*PLACES["state"]).glob("domain-*"):
        if home not in kept:
            shutil.rmtree(home, ignore_errors=True)
    numbers = {root.pid_path(name) for name in running} | {root.pid_file}
    places = root.directory(*PLACES["run"])
    for path in (*places.glob("*.pid"), *places.glob(".new-*")):
        if path not in numbers:
            path.unlink(missing_ok=True)
    doors = {path for record in running.values() for path in record.files}
    for path in root.directory(*PLACES["channel"]).glob("*/*"):
        if path.is_socket() and path not in doors:
            path.unlink(missing_ok=True)


def _records(driver: Driver, paths: Iterable[Path]) -> Iterator[Record]:
    for path in paths:
        try:
            record = status.read(path)
            if path != driver.root.status_path(record.name):
                raise SystemFailure(f"it is the status of another domain, '{record.name}'")
        except (EmbedError, OSError) as error:
            _set_aside(driver, path, error)
        else:
            driver.ids.taken(record.id)
            yield record


def _set_aside(driver: Driver, path: Path, error: EmbedError | OSError) -> None:
    aside = path
    with contextlib.suppress(OSError):  # a directory that cannot be written: it stays where it is
        aside = set_aside(path)
    driver.root.log.error("domain status %s cannot be read: %s; it is kept as %s", path, error, aside)


#: What a QEMU that is gone died of, by what it was last seen doing.
_LAST_SEEN: Final = {DomainState.SHUTDOWN: state.POWERED_OFF, DomainState.CRASHED: state.PANICKED}


async def _take_up(driver: Driver, record: Record) -> None:
    try:
        machine = _machine(driver, record)
    except EmbedError as error:
        await reaper.end(driver.root, record)
        _set_aside(driver, driver.root.status_path(record.name), error)
        return
    _tell_pending(machine, record)
    if record.process is None:  # it had ended before, and that was not told
        driver.recordings.new(machine, kept=record.kept).only_tell(record)
    elif reaper.is_orphan(record):
        await _bury(driver, machine, record, state.DESTROYED)
    else:
        try:
            await _adopt(driver, machine, record)
        except (EmbedError, OSError) as error:
            log = driver.root.log.about(record.name)
            tell = log.info if isinstance(error, ProcessLookupError) else log.error
            tell("QEMU %d is lost: %s", record.process.pid, error)
            await _bury(driver, machine, record, _LAST_SEEN.get(record.status.state, state.LOST))


def _machine(driver: Driver, record: Record) -> Machine:
    """The machine of RECORD: the defined one of that uuid, or a transient one that nobody knows yet.

    :raise EmbedError: when its XML cannot be read, or its name is another machine's.
    """
    machine = driver.registry.claim(record.name, record.uuid, live=True)
    if machine is None:
        domain = _parse(driver, record)
        block.mark_detected(domain, record.detected)
        block.mark_found(domain, record.volumes)
        inactive = definition.parse(definition.format(domain, inactive=True))
        machine = Machine(driver, inactive, persistent=False)
    return machine


def _parse(driver: Driver, record: Record) -> Domain:
    return definition.spelled(definition.parse(record.domain), Vault(driver.root).reveal)


def _tell_pending(machine: Machine, record: Record) -> None:
    for event in record.events:
        try:
            machine.emit(pending.read(event))
        except ValueError as error:
            machine.root.log.about(machine.name).warning("an event cannot be told: %s", error)


async def _bury(driver: Driver, machine: Machine, record: Record, ending: Ending) -> None:
    """End what is left of a run, and say so to those who had heard of it."""
    await reaper.end(driver.root, record)
    logs.shutting_down(driver.root.log.about(record.name), record.log, ending.reason)
    if record.announced:
        machine.stopped(ending)
    driver.recordings.new(machine, kept=record.kept).only_tell(record)


async def _adopt(driver: Driver, machine: Machine, record: Record) -> None:
    """Have the QEMU of RECORD as if it had been started here.

    :raise ProcessLookupError: when it has ended.
    :raise EmbedError: when it does not answer, or its record cannot be read.
    """
    live = Completed(_parse(driver, record))
    block.mark_detected(live, record.detected)
    block.mark_found(live, record.volumes)
    running = _running(driver, machine, record)
    driver.registry.add(machine)
    try:
        running.link(await Monitor.connect(running.socket, machine.name, partial(react.react, machine, running)))
        machine.adopted(running, live, record.status)
        await _catch_up(machine, running, live)
    except BaseException:
        running.recording.close()
        await stop.leave(running)
        raise
    running.stack.push_async_callback(running.unlink)
    await _hold_again(driver, live, running)
    running.companions.watch(running, machine.root.log.about(machine.name))
    stop.watch(machine, running)
    running.recording.flush()
    machine.root.log.about(machine.name).info("QEMU %d is taken up again", running.process.pid)


async def _hold_again(driver: Driver, live: Completed, running: Running) -> None:
    """Hold for its parts what the process before held, and connect its cards, whose networks had ended with it."""
    beside = Beside(driver.networks.plug, running.companions, running.files)
    try:
        await driver.host.prepare(live.devices.emulator or "")
        for descriptor in launch(live, driver.host).descriptors:
            adopt_request(descriptor.opens, running.holdings.stack(descriptor.name), beside)
    except EmbedError as error:
        driver.root.log.about(live.name).warning("it has lost its network: %s", error)


def _running(driver: Driver, machine: Machine, record: Record) -> Running:
    if record.process is None:
        raise ProcessLookupError("there is no process on record")
    process = Process.adopt(record.process, record.name)
    home = driver.root.runtime_directory(record.id, record.name)
    companions = Companions(outlives_parent=record.kept)
    for companion in record.companions:
        with contextlib.suppress(ProcessLookupError):
            companions.adopt(Process.adopt(companion.identity, companion.name))
    try:
        sock = connect_unix(home / MONITOR)
    except EmbedError:
        process.leave()
        raise
    running = Running(
        id=record.id,
        log=record.log,
        log_start=record.log_start,
        argv=record.argv,
        process=process,
        ports=list(record.ports),
        socket=sock,
        recording=driver.recordings.new(machine, kept=record.kept),
        started=record.started,
        kept=record.kept,
        files=list(record.files),
        companions=companions,
        holdings=Holdings(),
        jobs={job.name: job for job in record.jobs},
        announced=True,
        fake_reboot=record.fake_reboot,
    )
    running.recording.resume(running)
    _fill_stack(running.stack, running, home, driver.root.pid_path(record.name))
    return running


def _fill_stack(stack: contextlib.AsyncExitStack, running: Running, home: Path, pid_file: Path) -> None:
    """What `start` would have put there."""
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    for path in running.files:
        stack.callback(path.unlink, missing_ok=True)
    stack.push_async_callback(running.holdings.aclose)
    for companion in running.companions:
        stack.push_async_callback(end, companion)
    stack.callback(running.socket.close)
    stack.push_async_callback(running.process.kill)
    stack.callback(pid_file.unlink, missing_ok=True)


async def _catch_up(machine: Machine, running: Running, live: Completed) -> None:
    """Find out what happened meanwhile, and tell it."""
    # libvirt: qemuProcessReconnect
    _catch_up_ports(machine, running, live, await running.monitor.execute("query-chardev"))
    with contextlib.suppress(CommandError):  # it has no balloon
        _catch_up_balloon(machine, live, (await running.monitor.execute("query-balloon"))["actual"])
    await blockjobs.conclude(machine, running)
    _catch_up_state(machine, running, (await running.monitor.execute("query-status"))["status"])


def _catch_up_ports(machine: Machine, running: Running, live: Completed, answers: list[dict[str, Any]]) -> None:
    agent = running.agent
    for answer in answers:
        if agent is not None and answer["label"] == chardev_id(agent.alias):
            _catch_up_agent(machine, agent, live, connected=answer["frontend-open"])
    learn(live, answers)


def _catch_up_agent(machine: Machine, agent: AgentChannel, live: Completed, *, connected: bool) -> None:
    if connected:
        agent.guest_opened()
    if learn_state(live, agent.alias, connected=connected):
        react.announce_agent(machine, connected=connected)


def _catch_up_balloon(machine: Machine, live: Completed, actual: int) -> None:
    if -(-actual // KIB) != (live.current_memory or live.memory):
        react.balloon_changed(machine, actual)


def _catch_up_state(machine: Machine, running: Running, runstate: str) -> None:
    # libvirt: qemuProcessUpdateState, qemuProcessReconnect's "finish shutdown sequence"
    was = machine.status
    if was == state.SHUTTING_DOWN:
        running.got_shutdown = True
        react.end_soon(running)
    elif runstate == "shutdown":
        react.HANDLERS["SHUTDOWN"](machine, running, {"guest": True})
    elif runstate == "guest-panicked":
        react.panicked(machine, running, told=was.state is DomainState.CRASHED)
    elif runstate == "suspended":
        if was.state is DomainState.RUNNING:
            react.HANDLERS["SUSPEND"](machine, running, {})
    elif runstate == "running":
        react.HANDLERS["WAKEUP" if was == state.PMSUSPENDED else "RESUME"](machine, running, {})
    elif was.state is DomainState.RUNNING and runstate in PAUSED:
        react.suspended(machine, PAUSED[runstate])
