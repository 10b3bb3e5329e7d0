"""Domains around a few devices, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver.descriptors import Beside, open_all
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.qemu.monitor import Monitor
from pytest_embedvm.qemu.process import Process
from tests.fakes.host import FakeHost, no_network


def completed(devices: str, *, machine: str = "q35", host: FakeHost | None = None) -> Completed:
    """A domain with these DEVICES, completed."""
    text = f"""<domain type='qemu'><name>d</name><memory unit='MiB'>64</memory>
      <os><type arch='x86_64' machine='{machine}'>hvm</type></os><devices>{devices}</devices></domain>"""
    return complete.complete(definition.parse(text), host or FakeHost())


def of_kind(domain: Completed, kind: type[Device]) -> list[Any]:
    return [device for device in domain.devices.all if type(device) is kind]


def written(domain: Completed, tag: str, *, inactive: bool = True) -> list[str]:
    """The elements TAG as they are written, on one line each."""
    found, inside = [], ""
    for line in definition.format(domain, inactive=inactive).splitlines():
        if line.startswith(f"    <{tag}") or inside:
            inside += line.strip()
            if line.startswith(f"    </{tag}") or (line.endswith("/>") and line.startswith(f"    <{tag}")):
                found.append(inside)
                inside = ""
    return found


def options(domain: Completed, option: str) -> list[str]:
    """The values of OPTION on the command line; descriptors count from 100."""
    launch = argv.launch(domain, FakeHost())
    numbers = {descriptor.name: 100 + i for i, descriptor in enumerate(launch.descriptors)}
    words = launch.argv(numbers)
    return [value for word, value in itertools.pairwise(words) if word == option]


@contextlib.asynccontextmanager
async def running(domain: Completed, host: FakeHost, log: Path) -> AsyncIterator[Monitor]:
    """DOMAIN on real QEMU, its guest not started; the monitor is yielded."""
    launch = argv.launch(domain, host)
    ours, theirs = socket.socketpair()
    async with contextlib.AsyncExitStack() as stack:
        with theirs, contextlib.ExitStack() as passed, log.open("wb") as output:
            holdings = Holdings()
            stack.push_async_callback(holdings.aclose)
            numbers = await open_all(launch.descriptors, holdings, passed, Beside(no_network))
            monitor = theirs.fileno()
            words = ["-chardev", f"socket,id=charmonitor,fd={monitor}", "-mon", "chardev=charmonitor,mode=control"]
            process = Process.spawn(
                [*launch.argv(numbers), *words], output=output, pass_fds=[monitor, *numbers.values()]
            )
        stack.push_async_callback(process.kill)
        connection = await Monitor.connect(ours, "test")
        stack.push_async_callback(connection.close)
        for command in launch.commands:
            await connection.execute(command.name, command.arguments)
        yield connection
        await connection.execute("quit")
        await asyncio.wait_for(process.wait(), 30)
