"""The variable store of a UEFI domain: made at its first start, removed with its definition."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import DomainUndefineFlagsValues
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import OperationInvalid, SystemFailure
from pytest_embedvm.files import write_atomically

#: Either says what is to become of the store.
DECIDED: Final = DomainUndefineFlagsValues.NVRAM | DomainUndefineFlagsValues.KEEP_NVRAM

#: More than any firmware's flash holds.
LARGEST_BYTES: Final = 64 * 1024 * 1024


def prepare(domain: Domain, *, anew: bool) -> None:
    """Make the variable store from its template, unless it is there and not wanted ANEW.

    :raise SystemFailure: when the template cannot be read, or the store not be written.
    """
    # libvirt: qemuPrepareNVRAM
    nvram = domain.os.nvram
    if nvram is None or nvram.path is None or nvram.template is None:
        return
    store = Path(nvram.path)
    if store.exists() and not anew:
        return
    try:
        content = Path(nvram.template).read_bytes()
    except OSError as error:
        raise SystemFailure(f"Failed to open file '{nvram.template}': {error.strerror}") from error
    _write(store, content)


def undefine(domain: Domain, flags: int) -> None:
    """Remove the store with its domain, or keep it, as FLAGS say.

    :raise OperationInvalid: when there is one and they do not say, or say both.
    """
    # libvirt: qemuDomainUndefineFlags
    if flags & DECIDED == DECIDED:
        raise OperationInvalid("cannot both keep and delete nvram")
    nvram = domain.os.nvram
    if nvram is None or nvram.path is None or not Path(nvram.path).exists():
        return
    if not flags & DECIDED:
        raise OperationInvalid("cannot undefine domain with nvram")
    if flags & DomainUndefineFlagsValues.NVRAM:
        try:
            Path(nvram.path).unlink()
        except OSError as error:
            raise SystemFailure(f"failed to remove nvram: {nvram.path}: {error.strerror}") from error


def forget(domain: Domain, own: Path) -> None:
    """The transient DOMAIN has ended: remove its store if that is its OWN, in the place that the driver chose."""
    nvram = domain.os.nvram
    if nvram is not None and nvram.path == str(own):
        own.unlink(missing_ok=True)


def take_along(domain: Domain, source: Path) -> Callable[[], None]:
    """Give DOMAIN the content of the variable store SOURCE; returns what undoes that.

    :raise SystemFailure: when SOURCE cannot be read, or is no variable store; or DOMAIN's own not be written.
    """
    nvram = domain.os.nvram
    if nvram is None or nvram.path is None or Path(nvram.path) == source:
        return _nothing
    store = Path(nvram.path)
    content, before = _content(source), _content(store) if store.exists() else None
    _write(store, content)
    return partial(_write, store, before) if before is not None else partial(store.unlink, missing_ok=True)


def _nothing() -> None:
    """Undo nothing."""


def _content(store: Path) -> bytes:
    try:
        descriptor = os.open(store, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_BYTES:
                raise SystemFailure(f"'{store}' is no variable store")
            return file.read()
    except OSError as error:
        raise SystemFailure(f"Failed to open file '{store}': {error.strerror}") from error


def _write(store: Path, content: bytes) -> None:
    try:
        write_atomically(store, content)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{store}': {error.strerror}") from error
