"""Ending what a dead owner left behind: QEMUs, and what runs beside them, that were not meant to outlive it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from pathlib import Path

from pytest_embedvm.driver.restart import status
from pytest_embedvm.driver.restart.record import Record
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import EmbedError, InternalError
from pytest_embedvm.qemu.identity import Identity
from pytest_embedvm.qemu.process import Process


def is_orphan(record: Record) -> bool:
    """Whether RECORD, whose owner is dead, is that of a machine that was not to outlive it.

    One that is kept and of which nobody was told that it had started is none's: its start was never finished.
    """
    # libvirt: qemuProcessReconnect's "wasn't fully started yet, killing it"
    return record.process is not None and not (record.kept and record.announced)


async def end(root: Root, record: Record) -> bool:
    """End what still runs of RECORD, and remove what it left; whether its QEMU was still running.

    A process is known by its number and the moment it began, never by its name. ROOT's lock must be held.

    :raise InternalError: when a process does not end.
    """
    ended = record.process is not None and await _end(record.process, record.name)
    for companion in record.companions:
        await _end(companion.identity, companion.name)
    for path in (*record.files, root.pid_path(record.name)):
        path.unlink(missing_ok=True)
    shutil.rmtree(root.runtime_directory(record.id, record.name), ignore_errors=True)
    return ended


async def _end(identity: Identity, name: str) -> bool:
    try:
        process = Process.adopt(identity, name)
    except ProcessLookupError:
        return False
    await process.kill()
    return True


async def reap(path: Path) -> list[Record]:
    """End the orphans in the root at PATH, whose owner must be dead, and return those that were still running.

    :raise ConfigUnsupported: when a newer version wrote the root.
    :raise SystemFailure: when somebody has it open.
    """
    root = Root(path)
    with root.locked():
        orphans = [record for record in status.machines_of(root.path) if is_orphan(record)]
        ended = await asyncio.gather(*(_reap(root, record) for record in orphans))
    return [record for record, was_running in zip(orphans, ended, strict=True) if was_running]


async def _reap(root: Root, record: Record) -> bool:
    log = root.log.about(record.name)
    try:
        ended = await end(root, record)
    except InternalError as error:
        log.error("an orphan stays: %s", error)  # noqa: TRY400
        return False
    root.status_path(record.name).unlink(missing_ok=True)
    if ended:
        log.info("it was an orphan: its owner is dead, and it was not to outlive it")
    return ended


async def reap_dead() -> list[Record]:
    """End the orphans in every root of this user whose owner was killed, and return them. Never fails."""
    ended = []
    for entry in index.roots():
        if entry.dead:
            with contextlib.suppress(EmbedError, OSError):  # it is being opened, or purged, or is a newer version's
                ended += await reap(entry.path)
    return ended
