"""Ending what a dead owner left behind: QEMUs, and what runs beside them, that were not meant to outlive it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable
from pathlib import Path

from pytest_embedvm.driver import status
from pytest_embedvm.driver.record import Record
from pytest_embedvm.driver.root import Root
from pytest_embedvm.errors import InternalError
from pytest_embedvm.logs import Log
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
    """End the orphans in the root at PATH, if its owner is dead; those that were still running."""
    root = Root(path)
    root.acquire()
    try:
        return [record for record in await _reap(root, status.machines_of(path), root.log) if record]
    finally:
        root.release()


async def _reap(root: Root, records: Iterable[Record], log: Log) -> list[Record | None]:
    return await asyncio.gather(*(_reap_one(root, record, log) for record in records if is_orphan(record)))


async def _reap_one(root: Root, record: Record, log: Log) -> Record | None:
    """RECORD, if its QEMU was ended here."""
    try:
        ended = await end(root, record)
    except InternalError as error:
        log.about(record.name).error("an orphan stays: %s", error)
        return None
    status.path_of(root, record.name).unlink(missing_ok=True)
    return record if ended else None
