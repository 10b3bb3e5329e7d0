"""Block jobs."""

from __future__ import annotations

import operator
from typing import Final

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.domain._base import Base
from pytest_embedvm.constants import DomainBlockJobAbortFlags, DomainBlockJobInfoFlags, DomainBlockPullFlags
from pytest_embedvm.driver import blockjobs
from pytest_embedvm.units import MIB

#: As the binding reads a bandwidth.
UNSIGNED_LONG: Final = 0xFFFFFFFFFFFFFFFF
PULL = DomainBlockPullFlags.BLOCK_PULL_BANDWIDTH_BYTES
INFO = DomainBlockJobInfoFlags.BLOCK_JOB_INFO_BANDWIDTH_BYTES
ABORT = DomainBlockJobAbortFlags.ASYNC | DomainBlockJobAbortFlags.PIVOT


class Block(Base):
    """blockPull, blockJobInfo, blockJobAbort."""

    @public("virDomainBlockPull", writes=True)
    def blockPull(self, disk: str, bandwidth: int = 0, flags: int = 0) -> int:
        """Begin to copy into the image of DISK, a target's name or a path, all that it stands on.

        BANDWIDTH is MiB/s, or with BANDWIDTH_BYTES bytes a second; 0 is no limit. The event BLOCK_JOB tells the end.

        :raise libvirtError: INVALID_ARG when there is no such disk, OPERATION_UNSUPPORTED when it has a job already.
        """
        name = arguments.text(disk, "disk", "virDomainBlockPull")
        in_bytes = bool(arguments.known(flags, PULL, "qemuDomainBlockPull"))
        speed = (operator.index(bandwidth) & UNSIGNED_LONG) * (1 if in_bytes else MIB)
        self._order(lambda machine: blockjobs.pull(machine, name, speed))
        return 0

    @public("virDomainGetBlockJobInfo")
    def blockJobInfo(self, path: str, flags: int = 0) -> dict[str, int]:
        """How far the job of disk PATH is: type, bandwidth, cur, end; empty when it has none.

        bandwidth is MiB/s, or with BANDWIDTH_BYTES bytes a second.

        :raise libvirtError: INVALID_ARG when there is no such disk.
        """
        name = arguments.text(path, "path", "virDomainGetBlockJobInfo")
        in_bytes = bool(arguments.known(flags, INFO, "qemuDomainGetBlockJobInfo"))
        found = self._order(lambda machine: blockjobs.info(machine, name))
        if found is None:
            return {}
        # libvirt: qemuBlockJobInfoTranslate rounds up
        return {**found, "bandwidth": found["bandwidth"] if in_bytes else -(-found["bandwidth"] // MIB)}

    @public("virDomainBlockJobAbort", writes=True)
    def blockJobAbort(self, disk: str, flags: int = 0) -> int:
        """End the job of DISK, and return when it has ended, or with ASYNC at once.

        :raise libvirtError: OPERATION_INVALID when it has none.
        """
        name = arguments.text(disk, "disk", "virDomainBlockJobAbort")
        checked = arguments.known(flags, ABORT, "qemuDomainBlockJobAbort")
        self._order(lambda machine: blockjobs.abort(machine, name, checked))
        return 0
