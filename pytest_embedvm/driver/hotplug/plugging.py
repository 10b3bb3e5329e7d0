"""Parts into a running QEMU: each in turn, and if one is refused, those before it out again."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
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


@dataclass
class Plugging:
    """A device on its way into a running machine; `undo` is what takes all of it back."""

    machine: Machine
    running: Running
    undo: contextlib.AsyncExitStack
    beside: Beside = field(init=False)

    def __post_init__(self) -> None:
        running = self.running
        self.beside = Beside(self.machine.driver.networks.plug, running.companions, running.files, running.taps)

    async def plug(self, part: Part) -> None:
        """Add PART, which the guest does not see, with what it asks to be opened.

        :raise CommandError: when QEMU refuses it.
        :raise SystemFailure: when what it asks for cannot be had.
        """
        try:
            await self.send(part)
        except CommandError:
            raise
        except BaseException:  # nobody knows whether it is there: called off, or no answer
            await take_back(self.machine, self.running, part.unplug(), quiet=True)
            raise
        self.undo.push_async_callback(take_back, self.machine, self.running, part.unplug())

    async def send(self, part: Part) -> None:
        """Add PART; what it asks to be opened goes with `undo`, and it does not."""
        names: dict[str, str | int] = {}
        handed: list[str] = []
        with contextlib.ExitStack() as passed:
            for descriptor in part.descriptors:
                name, inode = await self._hand_over(descriptor, passed)
                handed.append(name)
                names[descriptor.name] = _number(self.running, inode) if part.plugs_numbers else name
            command = part.plug(names)
            if command is None:
                return
            try:
                await self.running.monitor.execute(command.name, command.arguments)
            except CommandError:
                for given in handed:  # it did not get as far as taking it, or this is refused, too
                    await take_back(self.machine, self.running, Command("closefd", {"fdname": given}), quiet=True)
                raise

    async def _hand_over(self, descriptor: Descriptor, passed: contextlib.ExitStack) -> tuple[str, int]:
        """Open what DESCRIPTOR asks for, and let QEMU have it; under which name, and its inode."""
        running, companions = self.running, self.running.companions
        self.undo.push_async_callback(running.holdings.release, descriptor.name)
        with contextlib.ExitStack() as waiting:
            # What outlives us begins when it is on record.
            gated = running.kept or not dies_with_parent()
            companions.gate = waiting.enter_context(Gate()) if gated else None
            waiting.callback(setattr, companions, "gate", None)
            number = await open_one(descriptor, running.holdings.stack(descriptor.name), passed, self.beside)
            running.recording.flush()
            if companions.gate:
                companions.gate.open()
        running.monitor.send_descriptor(number)
        # A name of its own each time: QEMU closes what it was given under the same one before.
        name = f"{descriptor.name}.{next(_numbers)}"
        await running.monitor.execute("getfd", {"fdname": name})
        companions.watch(running, self.machine.root.log.about(self.machine.name))
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
