"""Whether what a domain's disks stand on is there, before QEMU is started."""

from __future__ import annotations

import os

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.source import WITH_BACKING, NeededFile
from pytest_embedvm.domain.media import drop_medium, needed_files
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import SystemFailure


def check(live: Domain) -> None:
    """Return if the files and devices of LIVE are there; a medium that is missing and optional is taken out of it.

    :raise SystemFailure: naming the first file that is not there, or may not be read.
    """
    # libvirt: qemuDomainCheckDiskPresence, qemuDomainDetermineDiskChain
    for file in list(needed_files(live)):
        reason = _missing(file.path)
        if reason and file.policy == "optional":
            drop_medium(live, file)
        elif reason:
            raise SystemFailure(f"Cannot access storage file {_spell(file)}: {reason}", origin=ErrorDomain.STORAGE)


def _missing(path: str) -> str | None:
    """Why PATH cannot be opened, in the system's words."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.strerror
    return None


def _spell(file: NeededFile) -> str:
    if file.format in WITH_BACKING:  # libvirt reads the header, as the user who is to run QEMU, and says so
        return f"'{file.path}' (as uid:{os.geteuid()}, gid:{os.getegid()})"
    return f"'{file.path}'"
