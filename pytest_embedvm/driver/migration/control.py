"""What can be asked of a machine's migration, and told to it, while it is under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_embedvm.constants import DomainGetJobStatsFlags as Flags
from pytest_embedvm.constants import DomainJobOperation, DomainJobType, ErrorDomain
from pytest_embedvm.driver.long_job import UNLIMITED, Stats
from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.driver.running import Running
from pytest_embedvm.errors import NumericalOverflow, OperationInvalid
from pytest_embedvm.units import MIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine


async def stats(machine: Machine, flags: int = 0) -> Stats:
    """The figures of the job that is under way, or with COMPLETED of the last one.

    :raise OperationInvalid: when it does not run, or the guest only comes.
    """
    # libvirt: qemuDomainGetJobStats
    job = machine.long_job
    if flags & Flags.COMPLETED:
        return job.completed(keep=bool(flags & Flags.KEEP_COMPLETED))
    running = _require_running(machine)
    if job.operation is DomainJobOperation.MIGRATION_IN:
        raise OperationInvalid("migration statistics are available only on the source host")
    if not job.active:
        return {"type": DomainJobType.NONE}
    return job.stats(await transfer.query(running))


async def abort(machine: Machine) -> None:
    """Call the job off that is under way.

    :raise OperationInvalid: when there is none, or the guest only comes.
    """
    # libvirt: qemuDomainAbortJobFlags
    running, job = _require_running(machine), machine.long_job
    if job.operation is DomainJobOperation.MIGRATION_IN:
        raise OperationInvalid("cannot abort incoming migration; use virDomainDestroy instead")
    if not job.active:
        raise OperationInvalid("no job is active on the domain")
    job.aborted = True
    if running.transfer is not None and running.transfer.under_way:
        await running.monitor.execute("migrate_cancel")


async def set_max_speed(machine: Machine, bandwidth: int) -> None:
    """Send at most BANDWIDTH MiB/s, in the migration that is under way and in those to come.

    :raise NumericalOverflow: when it is more than QEMU can count.
    """
    # libvirt: qemuDomainMigrateSetMaxSpeed
    if bandwidth > UNLIMITED:
        raise NumericalOverflow(f"bandwidth must be less than {UNLIMITED + 1}")
    running, job = machine.running, machine.long_job
    if running is not None and job.operation is DomainJobOperation.MIGRATION_OUT:
        await running.monitor.execute("migrate-set-parameters", {"max-bandwidth": bandwidth * MIB})
    job.max_speed = bandwidth


async def set_max_downtime(machine: Machine, downtime: int) -> None:
    """Let the guest stand still for DOWNTIME ms at most, when it moves."""
    await _require_running(machine).monitor.execute("migrate-set-parameters", {"downtime-limit": downtime})


async def max_downtime(machine: Machine) -> int:
    """For how many ms the guest may stand still when it moves."""
    answer = await _require_running(machine).monitor.execute("query-migrate-parameters")
    return int(answer["downtime-limit"])


def _require_running(machine: Machine) -> Running:
    if machine.running is None:
        raise OperationInvalid("domain is not running", origin=ErrorDomain.DOMAIN)
    return machine.running
