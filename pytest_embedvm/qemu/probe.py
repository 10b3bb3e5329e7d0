"""Asking a QEMU binary what it can do: one process, one QMP session."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Final

from pytest_embedvm.errors import InternalError
from pytest_embedvm.files import memory_file
from pytest_embedvm.qemu.binary import BinaryIdentity
from pytest_embedvm.qemu.capabilities import PROBED_DEVICES, Capabilities, CpuModel, Machine
from pytest_embedvm.qemu.monitor import Monitor, MonitorClosed
from pytest_embedvm.qemu.process import Process

#: The machines whose properties are read; the other versions of a family have the same.
#: microvm must not be added: listing its properties kills QEMU 7.2.
PROBED_MACHINES: Final = ("q35", "pc", "virt")

#: How many devices may kill QEMU before the probe gives up: each costs one more QEMU.
MAX_DEADLY_DEVICES: Final = 5

_QUERIES: Final = (
    "query-target",
    "query-machines",
    "query-cpu-definitions",
    "qom-list-types",
    "query-command-line-options",
    "query-qmp-schema",
)

#: Concrete QOM types that no user names: the insides of QEMU, and what has a query of its own.
_INTERNAL_SUFFIXES: Final = ("-cpu", "-machine", "-accel", "-bus", "-memory-region")
_INTERNAL_PREFIXES: Final = ("qio-",)

Answers = Mapping[str, Any]
#: A listing is a QMP command and the type it is asked about.
Listing = tuple[str, str]
Properties = dict[Listing, frozenset[str]]


async def probe(binary: Path) -> Capabilities:
    """Ask BINARY for everything in `Capabilities`; must run on the loop thread.

    One QEMU is started; more only when listing a device's properties kills it, which leaves that device's out.

    :raise SystemFailure: when BINARY is missing or not executable, in libvirt's words.
    :raise InternalError: when it is no QEMU, or does not answer as one.
    """
    BinaryIdentity.of(binary)
    async with _session(binary) as monitor:
        answers = dict(zip(_QUERIES, await asyncio.gather(*map(monitor.execute, _QUERIES)), strict=True))
        wanted = list(_listings(answers))
        properties = await _list_at_once(monitor, wanted)
        version = monitor.greeting
    if len(properties) < len(wanted):
        await _list_one_by_one(binary, wanted, properties)
    return _capabilities(binary, version, answers, properties)


@asynccontextmanager
async def _session(binary: Path) -> AsyncIterator[Monitor]:
    """A QEMU without a machine; TCG comes first so that a broken KVM is not even opened.

    :raise InternalError: when QEMU ends in between; carries what it said.
    """
    ours, theirs = socket.socketpair()
    with memory_file("embedvm-probe") as output:
        with theirs:
            process = _spawn(binary, theirs, output)
        try:
            monitor = await Monitor.connect(ours, "probe")
            try:
                yield monitor
            finally:
                await monitor.close()
        except MonitorClosed as error:
            await process.kill()
            output.seek(0)
            said = output.read().decode(errors="replace").strip() or error.detail
            # libvirt: virQEMUCapsInitQMPSingle
            raise InternalError(f"Failed to probe QEMU binary with QMP: {said}") from error
        finally:
            await process.kill()


def _spawn(binary: Path, monitor: socket.socket, output: IO[bytes]) -> Process:
    return Process.spawn(
        [
            *(str(binary), "-S", "-no-user-config", "-nodefaults", "-display", "none"),
            *("-machine", "none", "-accel", "tcg", "-accel", "kvm"),
            *("-chardev", f"socket,id=probe,fd={monitor.fileno()}", "-mon", "chardev=probe,mode=control"),
        ],
        output=output,
        pass_fds=[monitor.fileno()],
    )


def _listings(answers: Answers) -> Iterator[Listing]:
    types = {entry["name"] for entry in answers["qom-list-types"]}
    yield from (("device-list-properties", name) for name in PROBED_DEVICES if name in types)
    for machine in answers["query-machines"]:
        if machine["name"] in PROBED_MACHINES or machine.get("alias") in PROBED_MACHINES:
            yield "qom-list-properties", f"{machine['name']}-machine"


async def _list(monitor: Monitor, listing: Listing) -> frozenset[str]:
    command, typename = listing
    found = await monitor.execute(command, {"typename": typename})
    return frozenset(entry["name"] for entry in found if not entry["name"].startswith("x-"))


async def _list_at_once(monitor: Monitor, wanted: Sequence[Listing]) -> Properties:
    """What WANTED names, in one go; less if QEMU dies of it."""
    answers = await asyncio.gather(*(_list(monitor, listing) for listing in wanted), return_exceptions=True)
    properties: Properties = {}
    for listing, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, frozenset):
            properties[listing] = answer
        elif not isinstance(answer, MonitorClosed):
            raise answer
    return properties


async def _list_one_by_one(binary: Path, wanted: Sequence[Listing], properties: Properties) -> None:
    """Add what is missing, leaving out what QEMU dies of: only one question at a time tells which that is."""
    missing = [listing for listing in wanted if listing not in properties]
    for _ in range(MAX_DEADLY_DEVICES + 1):
        async with _session(binary) as monitor:
            while missing:
                listing = missing.pop(0)
                try:
                    properties[listing] = await _list(monitor, listing)
                except MonitorClosed:
                    break
            else:
                return
    raise InternalError(
        f"Failed to probe QEMU binary with QMP: {binary} died {MAX_DEADLY_DEVICES + 1} times, "
        f"last of {' '.join(listing)}"
    )


def _capabilities(binary: Path, version: Answers, answers: Answers, properties: Properties) -> Capabilities:
    types = frozenset(entry["name"] for entry in answers["qom-list-types"])
    schema = {entity["name"]: entity for entity in answers["query-qmp-schema"]}
    number = version["qemu"]
    machines = [_machine(entry) for entry in answers["query-machines"]]
    by_type = {f"{machine.name}-machine": machine.family for machine in machines}
    return Capabilities(
        version=(number["major"], number["minor"], number["micro"]),
        package=version["package"],
        binary=binary,
        arch=answers["query-target"]["arch"],
        machines=MappingProxyType({machine.name: machine for machine in machines}),
        cpus=MappingProxyType({entry["name"]: _cpu(entry) for entry in answers["query-cpu-definitions"]}),
        accelerators=frozenset(name.removesuffix("-accel") for name in types if name.endswith("-accel")),
        device_types=frozenset(filter(_is_named_by_users, types)),
        device_properties=MappingProxyType({n: p for (_, n), p in properties.items() if n not in by_type}),
        machine_properties=MappingProxyType({by_type[n]: p for (_, n), p in properties.items() if n in by_type}),
        commands=_named(schema, "command"),
        events=_named(schema, "event"),
        arguments=frozenset(_arguments(schema)),
        options=frozenset(
            f"{option['option']}/{parameter['name']}"
            for option in answers["query-command-line-options"]
            for parameter in option["parameters"]
        ),
        netdevs=_variants(schema, "netdev_add", "arg-type"),
        block_drivers=_variants(schema, "blockdev-add", "arg-type"),
        displays=_variants(schema, "query-display-options", "ret-type"),
    )


def _is_named_by_users(typename: str) -> bool:
    return not typename.endswith(_INTERNAL_SUFFIXES) and not typename.startswith(_INTERNAL_PREFIXES)


def _machine(entry: Answers) -> Machine:
    return Machine(
        name=entry["name"],
        alias=entry.get("alias"),
        cpu_max=entry["cpu-max"],
        hotpluggable_cpus=entry["hotpluggable-cpus"],
        is_default=entry.get("is-default", False),
        deprecated=entry.get("deprecated", False),
        default_cpu_type=entry.get("default-cpu-type"),
        default_ram_id=entry.get("default-ram-id"),
    )


def _cpu(entry: Answers) -> CpuModel:
    return CpuModel(
        name=entry["name"],
        typename=entry["typename"],
        unavailable_features=tuple(entry.get("unavailable-features", ())),
        deprecated=entry.get("deprecated", False),
        static=entry["static"],
    )


def _named(schema: Answers, kind: str) -> frozenset[str]:
    return frozenset(name for name, entity in schema.items() if entity["meta-type"] == kind)


def _arguments(schema: Answers) -> Iterator[str]:
    for name in _named(schema, "command"):
        for member in schema[schema[name]["arg-type"]].get("members", ()):
            yield f"{name}/{member['name']}"


def _variants(schema: Answers, command: str, side: str) -> frozenset[str]:
    """The values of the tag of a command's union argument or result; none where the command is missing."""
    if command not in schema:
        return frozenset()
    return frozenset(variant["case"] for variant in schema[schema[command][side]].get("variants", ()))
