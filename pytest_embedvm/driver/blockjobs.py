"""Block jobs: a disk's image takes over what it stands on, while the guest runs.

QEMU keeps a job that has ended until it is told to forget it, so that its outcome is known even to who was away.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from errno import ECANCELED
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.constants import ConnectDomainEventBlockJobStatus as Outcome
from pytest_embedvm.constants import DomainBlockJobAbortFlags as AbortFlags
from pytest_embedvm.constants import DomainBlockJobType
from pytest_embedvm.domain import block
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.driver import events, persist
from pytest_embedvm.driver.restart.record import BlockJob
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import EmbedError, InvalidArgument, OperationInvalid, OperationTimeout, OperationUnsupported

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine

#: How long a job may take to end once it was cancelled: it finishes what it is writing.
ABORT_TIMEOUT_S: Final = 30.0
# libvirt: qemuBlockJobNewPull
PREFIX: Final = "pull-"
#: The status in which QEMU keeps a job that has ended.
CONCLUDED: Final = "concluded"


async def pull(machine: Machine, name: str, speed: int) -> None:
    """Begin to copy into the image of disk NAME what it stands on, at SPEED bytes a second; 0 for no limit.

    :raise InvalidArgument: when there is no such disk.
    :raise OperationUnsupported: when it has a job already.
    """
    # libvirt: qemuDomainBlockPullCommon
    async with machine.changing("block_pull") as found:
        running = _require(found)
        disk = _find(machine, name)
        if _job_of(running, disk) is not None:
            raise OperationUnsupported(f"disk '{disk.dev}' already in active block job")
        job = BlockJob(f"{PREFIX}{disk.dev}-{block.format_node(disk)}", disk.dev)
        running.jobs[job.name] = job
        running.recording.flush()  # before QEMU begins: it may end while nobody looks
        arguments: dict[str, object] = {"device": block.top_node(disk), "job-id": job.name, "auto-dismiss": False}
        try:
            await running.monitor.execute("block-stream", arguments | ({"speed": speed} if speed else {}))
        except BaseException:
            running.jobs.pop(job.name, None)
            running.recording.mark()
            raise


async def info(machine: Machine, name: str) -> Mapping[str, int] | None:
    """Type, bandwidth in bytes a second, bytes done and bytes in all of the job of disk NAME; None without a job."""
    # libvirt: qemuDomainGetBlockJobInfo
    async with machine.changing("block_job_info") as held:
        running = _require(held)
        job = _job_of(running, _find(machine, name))
        if job is None:
            return None
        jobs = await running.monitor.execute("query-block-jobs")
    found = next((one for one in jobs if one["device"] == job.name), None)
    if found is None:
        return None
    progress = {"cur": found["offset"], "end": found["len"]}
    if not found["len"] and found["status"] != CONCLUDED:
        progress = {"cur": 0, "end": 1}  # libvirt: qemuBlockJobInfoTranslate: not begun is not done
    return {"type": DomainBlockJobType.PULL, "bandwidth": found["speed"], **progress}


async def abort(machine: Machine, name: str, flags: int = 0) -> None:
    """End the job of disk NAME, and wait until it has ended, unless FLAGS say ASYNC.

    :raise OperationInvalid: when it has none.
    """
    # libvirt: qemuDomainBlockJobAbort
    async with machine.changing("block_job_abort") as found:
        running = _require(found)
        disk = _find(machine, name)
        job = _job_of(running, disk)
        if job is None:
            raise OperationInvalid(f"disk {disk.dev} does not have an active block job")
        if flags & AbortFlags.PIVOT:
            raise OperationInvalid("job type 'pull' does not support pivot")
        ended = running.jobs_awaited.setdefault(job.name, asyncio.Event())
        await running.monitor.execute("block-job-cancel", {"device": job.name})
    if not flags & AbortFlags.ASYNC:
        await _wait(running, job, ended)


async def _wait(running: Running, job: BlockJob, ended: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(ended.wait()), asyncio.ensure_future(running.ended.wait())]
    try:
        done, _ = await asyncio.wait(waits, timeout=ABORT_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if not done:
        raise OperationTimeout(f"block job {job.name} did not end within {ABORT_TIMEOUT_S:g} s of its abort")


def _require(running: Running | None) -> Running:
    if running is None:
        raise OperationInvalid("domain is not running")
    return running


def _find(machine: Machine, name: str) -> Disk:
    disk = block.disk_named(machine.live, name) if machine.live else None
    if disk is None or disk.source is None:
        # libvirt: qemuDomainDiskByName
        raise InvalidArgument(f"disk '{name}' not found in domain")
    return disk


def _job_of(running: Running, disk: Disk) -> BlockJob | None:
    return next((job for job in running.jobs.values() if job.disk == disk.dev), None)


def changed(machine: Machine, running: Running, data: Mapping[str, Any]) -> None:
    """React to QEMU's JOB_STATUS_CHANGE."""
    job = running.jobs.get(data["id"])
    if job is not None and data["status"] == CONCLUDED:
        running.background(asyncio.get_running_loop().create_task(_conclude_soon(machine, running)))


async def _conclude_soon(machine: Machine, running: Running) -> None:
    try:
        await conclude(machine, running)
    except EmbedError as error:
        machine.root.log.about(machine.name).warning("its block jobs cannot be ended: %s", error)


async def conclude(machine: Machine, running: Running) -> None:
    """Tell the outcome of each job of ours that has ended, and have QEMU forget it."""
    # libvirt: qemuBlockJobRefreshJobs, qemuBlockJobEventProcessConcluded
    async with running.concluding:
        known = {found["id"]: found for found in await running.monitor.execute("query-jobs")}
        for job in tuple(running.jobs.values()):
            found = known.get(job.name)
            if found is None or found["status"] == CONCLUDED:
                await _conclude(machine, running, job, _outcome(found))
        for name, found in known.items():
            # Told already, and forgotten by us and not by QEMU, when we ended between the two.
            if found["status"] == CONCLUDED and name.startswith(PREFIX):
                await running.monitor.execute("job-dismiss", {"id": name})


async def _conclude(machine: Machine, running: Running, job: BlockJob, outcome: Outcome) -> None:
    if outcome is Outcome.COMPLETED:
        await _finish_pull(machine, running, job)
    del running.jobs[job.name]
    _announce(machine, job, outcome)
    running.recording.flush()  # that it is told is on record before QEMU forgets it
    if job.name in running.jobs_awaited:
        running.jobs_awaited.pop(job.name).set()


def _outcome(found: Mapping[str, Any] | None) -> Outcome:
    """What became of a job; one that QEMU does not know any more was ended behind our back."""
    if found is None:
        return Outcome.FAILED
    if "error" not in found:
        return Outcome.COMPLETED
    return Outcome.CANCELED if found["error"] == os.strerror(ECANCELED) else Outcome.FAILED


async def _finish_pull(machine: Machine, running: Running, job: BlockJob) -> None:
    """Forget the images that the disk stood on, here, in QEMU, and in the definition."""
    disk = block.disk_named(machine.live, job.disk) if machine.live else None
    if disk is None:
        return
    for node in block.pulled(disk):
        try:
            await running.monitor.execute("blockdev-del", {"node-name": node})
        except EmbedError as error:  # as libvirt, which goes on: QEMU keeps the file open, no more
            machine.root.log.about(machine.name).warning("block node %s stays: %s", node, error)
    if machine.persistent and block.forget_backing(machine.definition, disk):
        persist.save(machine.root, machine.definition)


def _announce(machine: Machine, job: BlockJob, outcome: Outcome) -> None:
    # libvirt: qemuBlockJobEmitEvents
    disk = block.disk_named(machine.live, job.disk) if machine.live else None
    path = (disk.path if disk else None) or ""
    kind = DomainBlockJobType.PULL
    machine.emit(events.BlockJob(disk=path, kind=kind, status=outcome))
    machine.emit(events.BlockJob2(disk=job.disk, kind=kind, status=outcome))
