"""What a domain's disks stand on: whether it is there before QEMU is started, and what the images' headers say."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.source import FORMATS, WITH_BACKING, BackingStore, NeededFile, Source
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.media import drop_medium, learn_backing, missing_volumes, needed_files
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationInvalid, SystemFailure
from pytest_embedvm.qemu import image

#: The most images in one chain. libvirt: VIR_STORAGE_MAX_CHAIN_DEPTH
DEEPEST: Final = 200

#: A name that QEMU would not take for a path (QEMU: path_has_protocol).
_PROTOCOL: Final = re.compile(r"[^/]*:")


def prepare(live: Domain, host: Host, *, may_drop: bool = True) -> None:
    """Find the volumes of storage pools that LIVE stands on, and `check` it.

    :raise NoStoragePool, NoStorageVolume, ConfigUnsupported: as `find_volumes`.
    """
    find_volumes(live, host)
    check(live, may_drop=may_drop)


def find_volumes(domain: Domain, host: Host) -> None:
    """Find the volumes of storage pools that DOMAIN stands on.

    :raise NoStoragePool, NoStorageVolume, ConfigUnsupported: when a volume is not there; see `Host.volume`.
    """
    for source in missing_volumes(domain):
        source.find(host.volume(source.pool or "", source.volume or ""))


def check(live: Domain, *, may_drop: bool = True) -> None:
    """Return if the files and devices of LIVE are there; a medium that is missing and optional is taken out of it.

    :param may_drop: otherwise one that is optional must be there, too.

    LIVE is told what its images' headers name as backing files, so that QEMU opens what was looked at here.

    :raise SystemFailure: naming the first file that is not there, or may not be read.
    :raise OperationInvalid: when a header names a backing file and not its format: a guess could make a
        guest's own bytes a header that names any file of the host.
    :raise ConfigUnsupported: when a header names what is no file, or a format that nobody knows, or a file for the
        image's content.
    :raise InternalError: when a chain has no end.
    """
    # libvirt: qemuDomainCheckDiskPresence, qemuDomainDetermineDiskChain
    for file in list(needed_files(live)):
        reason = _missing(file.path)
        if reason and may_drop and file.policy == "optional":
            drop_medium(live, file)
        elif reason:
            raise SystemFailure(f"Cannot access storage file {_spell(file)}: {reason}", origin=ErrorDomain.STORAGE)
        elif file.format == "qcow2":
            _require_whole(file.path, file)
            if file.open_ended:
                _follow(live, file)


def _require_whole(path: str, file: NeededFile) -> None:
    """:raise ConfigUnsupported: when the image at PATH names a file for its content: any that QEMU may open."""
    if image.has_data_file(Path(path)):
        raise ConfigUnsupported(
            f"the image '{path}' of disk '{file.device}' keeps its content in another file (qcow2's data-file), "
            "which is not supported"
        )


def _follow(live: Domain, file: NeededFile) -> None:
    """Tell LIVE what is below FILE, down to the end."""
    below = BackingStore(detected=True)
    top, path, depth = below, file.path, 1
    while (found := _below(path, file)) is not None:
        depth += 1
        if depth > DEEPEST:
            raise InternalError(f"backing store for {file.path} is self-referential", origin=ErrorDomain.STORAGE)
        below.type, below.format, below.source = "file", found.format, Source(file=found.name)
        if found.format in WITH_BACKING - {"qcow2"}:  # only QEMU can read on
            break
        below.below = BackingStore(detected=True)
        below, path = below.below, found.name
        if found.format != "qcow2":
            break
        if _missing(found.name) is None:
            _require_whole(found.name, file)
    learn_backing(live, file, top)


def _below(path: str, file: NeededFile) -> image.Backing | None:
    """What the image at PATH stands on: an absolute path, and a format that is known."""
    try:
        found = image.backing(Path(path))
    except OSError as error:
        spelled = f"'{path}' (as uid:{os.geteuid()}, gid:{os.getegid()})"
        raise SystemFailure(
            f"Cannot access storage file {spelled}: {error.strerror}", origin=ErrorDomain.STORAGE
        ) from error
    if found is None:
        return None
    if _PROTOCOL.match(found.name):
        raise ConfigUnsupported(
            f"the image '{path}' of disk '{file.device}' stands on '{found.name}', which is no file"
        )
    if found.format is None:
        # libvirt: virStorageSourceGetMetadataRecurse
        raise OperationInvalid(
            f"format of backing image '{found.name}' of image '{path}' was not specified in the image metadata "
            "(See https://libvirt.org/kbase/backing_chains.html for troubleshooting)",
            origin=ErrorDomain.STORAGE,
        )
    if found.format not in FORMATS:
        raise ConfigUnsupported(f"unknown format '{found.format}' of the backing file of image '{path}'")
    return image.Backing(str(Path(path).parent / found.name), found.format)


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
