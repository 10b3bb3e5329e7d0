"""An asyncio application that drives VMs: calls go to threads, events come back into its own loop.

A call of this API blocks the thread that makes it, so an application's loop gives it to `asyncio.to_thread`. Callbacks
run on a thread of the driver's; `call_soon_threadsafe` takes what they hear into the loop.
Run it with `pytest --embedvm -v examples/test_asyncio_application.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pytest_embedvm import libvirt

XML = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""

Events = asyncio.Queue[tuple[str, int]]


@asynccontextmanager
async def lifecycle_events(connection: libvirt.virConnect) -> AsyncIterator[Events]:
    """A queue of (name, event) for the application's loop."""
    loop, events = asyncio.get_running_loop(), Events()

    def heard(_connection: libvirt.virConnect, domain: libvirt.virDomain, event: int, _detail: int, _: object) -> None:
        loop.call_soon_threadsafe(events.put_nowait, (domain.name(), event))

    await asyncio.to_thread(connection.domainEventRegister, heard, None)
    yield events
    await asyncio.to_thread(connection.domainEventDeregister, heard)


async def serve(connection: libvirt.virConnect, name: str) -> int:
    """The life of one VM; returns how many CPUs it had."""
    domain = await asyncio.to_thread(connection.createXML, XML.format(name=name), libvirt.VIR_DOMAIN_START_AUTODESTROY)
    _, _, _, cpus, _ = await asyncio.to_thread(domain.info)
    await asyncio.to_thread(domain.destroy)
    return cpus


def test_three_vms_at_once(embedvm_conn: libvirt.virConnect) -> None:
    names = ["one", "two", "three"]

    async def application() -> list[tuple[str, int]]:
        async with lifecycle_events(embedvm_conn) as events:
            async with asyncio.timeout(60):
                assert await asyncio.gather(*(serve(embedvm_conn, name) for name in names)) == [1, 1, 1]
                heard, stopped = [], 0
                while stopped < len(names):
                    heard.append(await events.get())
                    stopped += heard[-1][1] == libvirt.VIR_DOMAIN_EVENT_STOPPED
            return heard

    heard = asyncio.run(application())
    for name in names:
        assert [event for of, event in heard if of == name] == [
            libvirt.VIR_DOMAIN_EVENT_RESUMED,
            libvirt.VIR_DOMAIN_EVENT_STARTED,
            libvirt.VIR_DOMAIN_EVENT_SHUTDOWN,
            libvirt.VIR_DOMAIN_EVENT_STOPPED,
        ]
