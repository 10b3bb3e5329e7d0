"""Parts into a running QEMU: each in turn, and if one is refused, those before it out again."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_embedvm.driver.descriptors import Beside, open_one
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import EmbedError, InternalError
from pytest_embedvm.qemu.confinement import dies_with_parent
from pytest_embedvm.qemu.monitor import CommandError
from pytest_embedvm.qemu.parts import Command, Descriptor, Part
from pytest_embedvm.qemu.process import Gate

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

_numbers: Final = itertools.count()


async def plug(machine: Machine, running: Running, part: Part, undo: contextlib.AsyncExitStack) -> None:
    """Add PART, which the guest does not see, with what it asks to be opened; UNDO takes both back.

    :raise CommandError: when QEMU refuses it.
    :raise SystemFailure: when what it asks for cannot be had.
    """
    try:
        await send(machine, running, part, undo)
    except CommandError:
        raise
    except BaseException:  # nobody knows whether it is there: called off, or no answer
        await take_back(machine, running, part.unplug())
        raise
    undo.push_async_callback(take_back, machine, running, part.unplug())


async def send(machine: Machine, running: Running, part: Part, undo: contextlib.AsyncExitStack) -> None:
    """Add PART; UNDO closes what it asks to be opened."""
    names: dict[str, str | int] = {}
    handed: list[str] = []
    with contextlib.ExitStack() as passed:
        for descriptor in part.descriptors:
            name, inode = await _hand_over(machine, running, descriptor, passed, undo)
            handed.append(name)
            names[descriptor.name] = _number(running, inode) if part.plugs_numbers else name
        command = part.plug(names)
        if command is None:
            return
        try:
            await running.monitor.execute(command.name, command.arguments)
        except CommandError:
            for given in handed:  # it did not get as far as taking it, or this is refused, too
                await take_back(machine, running, Command("closefd", {"fdname": given}), quiet=True)
            raise


async def _hand_over(
    machine: Machine,
    running: Running,
    descriptor: Descriptor,
    passed: contextlib.ExitStack,
    undo: contextlib.AsyncExitStack,
) -> tuple[str, int]:
    """Open what DESCRIPTOR asks for, and let QEMU have it; under which name, and its inode."""
    companions = running.companions
    undo.push_async_callback(running.holdings.release, descriptor.name)
    with contextlib.ExitStack() as waiting:
        # What outlives us begins when it is on record.
        gated = running.kept or not dies_with_parent()
        companions.gate = waiting.enter_context(Gate()) if gated else None
        waiting.callback(setattr, companions, "gate", None)
        beside = Beside(machine.driver.networks.plug, companions, running.files)
        number = await open_one(descriptor, running.holdings.stack(descriptor.name), passed, beside)
        running.recording.flush()
        if companions.gate:
            companions.gate.open()
    running.monitor.send_descriptor(number)
    # A name of its own each time: QEMU closes what it was given under the same one before.
    name = f"{descriptor.name}.{next(_numbers)}"
    await running.monitor.execute("getfd", {"fdname": name})
    companions.watch(running, machine.root.log.about(machine.name))
    return name, os.fstat(number).st_ino


def _number(running: Running, inode: int) -> int:
    """The number under which QEMU has the socket with this INODE.

    :raise InternalError: when it has none.
    """
    for entry in Path(f"/proc/{running.process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if entry.readlink() == Path(f"socket:[{inode}]"):
                return int(entry.name)
    raise InternalError(f"QEMU {running.process.pid} did not take the descriptor it was given")


async def take_back(machine: Machine, running: Running, command: Command | None, *, quiet: bool = False) -> None:
    """Have QEMU carry out COMMAND, which removes something; that it could not is in the log, unless QUIET."""
    if command is None or not running.monitor.connected:
        return
    try:
        await running.monitor.execute(command.name, command.arguments)
    except EmbedError as error:
        if not quiet:
            machine.root.log.about(machine.name).warning("what was to be unplugged stays: %s", error)


async def unplug(machine: Machine, running: Running, parts: Iterable[Part]) -> None:
    """Remove PARTS, the last one first, and what was opened for them."""
    for part in reversed(list(parts)):
        await take_back(machine, running, part.unplug())
        for descriptor in part.descriptors:
            await running.holdings.release(descriptor.name)
