"""Starting a machine: each step undoes itself, on one stack."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import socket
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

from pytest_embedvm.constants import DomainCreateFlags, DomainRunningReason, DomainShutoffReason
from pytest_embedvm.domain import consoles
from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.domain.argv import launch as plan
from pytest_embedvm.domain.displays import awaits_vnc_port, learn_vnc_port
from pytest_embedvm.domain.forwards import awaits_ports, learn_ports, learn_taps
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import logs, media, nvram, react, stop, tpm
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.companions import Companions
from pytest_embedvm.driver.descriptors import Beside, connect_unix, open_all, open_request
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.driver.ports import ports
from pytest_embedvm.driver.restart.recording import Recording
from pytest_embedvm.driver.running import Running
from pytest_embedvm.driver.secret import sealing
from pytest_embedvm.errors import InternalError, OperationTimeout, SystemFailure
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.logs import Log
from pytest_embedvm.qemu.confinement import dies_with_parent
from pytest_embedvm.qemu.monitor import Monitor, MonitorClosed
from pytest_embedvm.qemu.parts import Listen
from pytest_embedvm.qemu.process import Gate, Process

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long QEMU may take to exit once it has hung up before the greeting.
EXIT_TIMEOUT_S: Final = 5.0
#: The most of QEMU's own words that go into an error.
LAST_WORDS_BYTES: Final = 4096


#: The monitor of a machine that outlives us, in its runtime directory. libvirt: qemuProcessPrepareMonitorChr
MONITOR: Final = "monitor.sock"
#: The second monitor of each machine, in its runtime directory: who wants to look connects there.
DOOR: Final = "debug.sock"


class Adaptation(Protocol):
    """What is different about one start."""

    @property
    def arriving(self) -> bool:
        """Whether the guest is not booted but comes from elsewhere, and its TPM with it."""

    def adapt(self, launch: Launch) -> Launch:
        """LAUNCH as it is to be this time.

        :raise EmbedError: when that cannot be.
        """


async def start_as(
    machine: Machine, live: Completed, flags: int, client: Client, *, wait: bool, adaptation: Adaptation | None
) -> None:
    """Start MACHINE as the domain LIVE.

    :param wait: the guest does not run yet.
    :param adaptation: what is different about this start.
    """
    driver = machine.driver
    await driver.hosts.allocate(live, client.uri)
    media.prepare(live, driver.host)
    machine.live, live.id = live, driver.ids.next()
    driver.host.make_places(live.name)
    nvram.prepare(live, anew=bool(flags & DomainCreateFlags.START_RESET_NVRAM))
    launched = plan(live, driver.host)
    planned = adaptation.adapt(launched) if adaptation else launched
    kept = client.options.keep_running and not flags & DomainCreateFlags.START_AUTODESTROY
    recording = driver.recordings.new(machine, kept=kept)
    source = driver.hosts.secrets(client.uri) or driver.secrets
    async with prepared(machine, planned, source, arriving=adaptation is not None and adaptation.arriving) as values:
        await start(machine, planned, recording, secrets=values, paused=wait, door=client.options.debug)


@contextlib.asynccontextmanager
async def prepared(
    machine: Machine, launch: Launch, source: sealing.Source, *, arriving: bool
) -> AsyncIterator[sealing.Values]:
    """What the secrets are worth that LAUNCH refers to, until the block is left; and its TPM is made.

    :param source: who knows them.
    :param arriving: the guest comes from elsewhere, and its TPM with it.
    :raise NoSecret, InvalidArgument: naming a secret that is not there.
    :raise ConfigUnsupported, InternalError, OperationTimeout: as `Tpms.prepare` does.
    """
    values = await sealing.values(launch.parts, source)
    try:
        await tpm.of(machine, values).prepare(launch, arriving=arriving)
        yield values
    finally:
        sealing.wipe(values)


async def start(
    machine: Machine,
    launch: Launch,
    recording: Recording,
    *,
    secrets: sealing.Values,
    paused: bool,
    door: bool = True,
) -> None:
    """Start QEMU, link it to MACHINE, and let the guest run unless PAUSED.

    :param secrets: what the secrets are worth that LAUNCH refers to.
    :param door: whether there is a second monitor, a socket that anybody of this user can connect to.
    :param recording: where it is put on record, and which says whether it outlives us: then its monitor is a socket,
        too, that whoever opens the root next connects to.
    :raise InternalError: when QEMU, or a program beside it, ends instead; with its own words.
    :raise SystemFailure: when a file, a socket or the program itself cannot be had.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.push(partial(_unrecorded, recording))
        home = _home(machine, stack)
        launch = replace(launch, parts=sealing.seal(launch.parts, secrets, home))
        tpms = tpm.of(machine, secrets)
        running = await _spawn(machine, launch, recording, tpms, stack, home=home, door=door)
        machine.spawned(running)
        await _connect(machine, running, stack)
        for command in launch.commands:
            await _execute(running, command.name, command.arguments)
        await learn(machine, running)
        running.companions.require()
        if not paused:
            running.resuming = DomainRunningReason.BOOTED
            await _execute(running, "cont")
        running.stack.push_async_exit(stack.pop_all())
    running.companions.watch(running, machine.root.log.about(machine.name))
    stop.watch(machine, running)


def _home(machine: Machine, stack: contextlib.AsyncExitStack) -> Path:
    """The machine's own directory, which ends with it; nothing of a dead process's is in it."""
    home = machine.root.runtime_directory((machine.live.id if machine.live else None) or 0, machine.name)
    stack.callback(shutil.rmtree, home, ignore_errors=True)
    return home


async def _spawn(
    machine: Machine,
    launch: Launch,
    recording: Recording,
    tpms: tpm.Tpms,
    stack: contextlib.AsyncExitStack,
    *,
    home: Path,
    door: bool,
) -> Running:
    domain_id, kept = (machine.live.id if machine.live else None) or 0, recording.kept
    with contextlib.ExitStack() as passed:
        # Without the kernel's death signal nobody would know of a QEMU that begins before it is on record.
        gate = passed.enter_context(Gate()) if kept or not dies_with_parent() else None
        companions = Companions(gate, outlives_parent=kept)
        beside = Beside(machine.driver.networks.plug, companions, tpms=tpms)
        holdings = Holdings()
        stack.push_async_callback(holdings.aclose)
        numbers = await open_all(launch.descriptors, holdings, passed, beside)
        ours, theirs = _monitor(home, stack, passed, beside) if kept else _private_monitor(stack, passed)
        monitors = {"monitor": theirs}
        if door:
            monitors["debug"] = open_request(Listen(str(home / DOOR)), stack, passed, beside)
        argv = _with_monitors(launch.argv(numbers), monitors, kept=kept)
        environment = {**_environment(home), **launch.environment}
        log = machine.root.log_path(machine.name)
        found = ports(launch.parts)
        make_logs(port.log for port in found if port.log and port.log.is_relative_to(machine.root.path))
        if machine.live:
            machine.driver.ownership.lend(launch, machine.live, home, stack)
        label = machine.root.log.about(machine.name)
        with logs.starting_up(label, log, machine.root.path, command_line(argv, environment)) as output:
            stack.push(partial(_failed, label, log))
            spoken = os.fstat(output.fileno()).st_size
            inherited = (*monitors.values(), *numbers.values())
            process = Process.spawn(
                argv,
                output=output,
                pass_fds=inherited,
                env={"PATH": os.defpath, **environment},
                confinement=machine.driver.ownership.confinement,
                gate=gate,
                outlives_parent=kept,
            )
        stack.push_async_callback(process.kill)
        label.info("QEMU is process %d, its log is %s", process.pid, log)
        _write_pid(machine.root.pid_path(machine.name), process.pid, stack)
        running = Running(
            id=domain_id,
            log=log,
            log_start=spoken,
            argv=tuple(argv),
            process=process,
            ports=found,
            socket=ours,
            recording=recording,
            started=time.time(),
            kept=kept,
            files=beside.files,
            taps=beside.taps,
            companions=beside.companions,
            holdings=holdings,
        )
        recording.begin(running)
        if gate:
            gate.open()
    return running


def _unrecorded(recording: Recording, kind: type[BaseException] | None, *_: object) -> None:
    """On the stack's way out: what did not start is taken off the record."""
    if kind is not None:
        recording.remove()


def _private_monitor(stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack) -> tuple[socket.socket, int]:
    ours, theirs = socket.socketpair()
    stack.callback(ours.close)
    return ours, passed.enter_context(theirs).fileno()


def _monitor(
    home: Path, stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack, beside: Beside
) -> tuple[socket.socket, int]:
    """A monitor that another process can connect to when we are gone."""
    theirs = open_request(Listen(str(home / MONITOR)), stack, passed, beside)
    ours = connect_unix(home / MONITOR)
    stack.callback(ours.close)
    return ours, theirs


def _with_monitors(argv: Sequence[str], descriptors: Mapping[str, int], *, kept: bool) -> list[str]:
    # After the domain's own words: a user's <qemu:commandline> cannot swallow the next option's value.
    words = list(argv)
    for name, descriptor in descriptors.items():
        server = "" if name == "monitor" and not kept else ",server=on,wait=off"
        words += ["-chardev", f"socket,id=char{name},fd={descriptor}{server}"]
        words += ["-mon", f"chardev=char{name},id={name},mode=control"]
    return words


def _write_pid(path: Path, pid: int, stack: contextlib.AsyncExitStack) -> None:
    """Say which process the machine is, for those who look from outside; gone when it ends."""
    stack.callback(path.unlink, missing_ok=True)
    try:
        path.write_text(f"{pid}\n")
        path.chmod(PRIVATE_FILE)
    except OSError as error:
        # libvirt: virPidFileWritePath
        raise SystemFailure(f"Failed to write pid file '{path}': {error.strerror}") from error


def _environment(home: Path) -> dict[str, str]:
    """What QEMU gets instead of our environment (libvirt: qemuBuildCommandLine): nothing of the user's home."""
    return {
        "LC_ALL": "C",
        "HOME": str(home),
        "XDG_DATA_HOME": f"{home}/.local/share",
        "XDG_CACHE_HOME": f"{home}/.cache",
        "XDG_CONFIG_HOME": f"{home}/.config",
    }


def command_line(argv: Sequence[str], environment: dict[str, str]) -> str:
    """ARGV as a shell would take it, an option a line."""
    words = [*(f"{name}={shlex.quote(value)}" for name, value in environment.items()), shlex.quote(argv[0])]
    text = " \\\n".join(words)
    for word in argv[1:]:
        text += f" \\\n{shlex.quote(word)}" if word.startswith("-") else f" {shlex.quote(word)}"
    return text


def _failed(log: Log, path: Path, kind: type[BaseException] | None, *_: object) -> None:
    """On the stack's way out: by an error, or (KIND is None) because what was started has ended."""
    if kind is not None:
        logs.shutting_down(log, path, DomainShutoffReason.FAILED)


def make_logs(paths: Iterable[Path]) -> None:
    """Make the consoles' own logs, which QEMU opens: it would follow a symbolic link."""
    for path in paths:
        os.close(logs.open_log(path))


async def _connect(machine: Machine, running: Running, stack: contextlib.AsyncExitStack) -> None:
    try:
        on_event = partial(react.react, machine, running)
        running.link(await Monitor.connect(running.socket, machine.name, on_event))
    except MonitorClosed:
        await _give_up(running, "process exited while connecting to monitor")
    except OperationTimeout as error:
        raise OperationTimeout(f"{error.detail}; {last_words(running) or 'QEMU said nothing'}") from None
    stack.push_async_callback(running.unlink)
    machine.started(running)
    if machine.action("on_reboot") == "destroy":
        # libvirt: qemuProcessSetupLifecycleActions
        await _execute(running, "set-action", {"reboot": "shutdown"})


async def learn(machine: Machine, running: Running) -> None:
    """Fill in what only QEMU knows: the terminals and the ports that it was given; and the names of its taps."""
    if machine.live is None:
        return
    learn_taps(machine.live, running.taps)
    if awaits_vnc_port(machine.live):
        learn_vnc_port(machine.live, await _execute(running, "query-vnc"))
    if running.ports:
        consoles.learn(machine.live, await _execute(running, "query-chardev"))
    if awaits_ports(machine.live):
        human = {"command-line": "info usernet"}  # QMP has no such query
        learn_ports(machine.live, await _execute(running, "human-monitor-command", human))


async def _execute(running: Running, command: str, arguments: Mapping[str, object] | None = None) -> Any:
    try:
        return await running.monitor.execute(command, arguments)
    except MonitorClosed:
        await _give_up(running, f"process exited during '{command}'")


async def _give_up(running: Running, what: str) -> NoReturn:
    """QEMU hung up: wait until it has said everything, and report it."""
    try:
        async with asyncio.timeout(EXIT_TIMEOUT_S):
            await running.process.wait()
    except TimeoutError:
        await running.process.kill()
    running.companions.require_sound()
    # libvirt: qemuProcessReportLogError
    words = last_words(running) or f"it said nothing; its exit status is {running.process.returncode}"
    beside = await running.companions.failures()
    raise InternalError("; ".join(filter(None, (f"{what}: {words}", beside))))


def last_words(running: Running) -> str:
    """What QEMU itself wrote to the log, the end of it, since this start."""
    with running.log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(running.log_start, size - LAST_WORDS_BYTES))
        return file.read().decode(errors="replace").rstrip("\n")
