"""The variable store of a UEFI domain: made at its first start, removed with its definition."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pytest_embedvm.constants import DomainUndefineFlagsValues
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import OperationInvalid, SystemFailure
from pytest_embedvm.files import write_atomically

#: Either says what is to become of the store.
DECIDED: Final = DomainUndefineFlagsValues.NVRAM | DomainUndefineFlagsValues.KEEP_NVRAM


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
    try:
        write_atomically(store, content)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{store}': {error.strerror}") from error


def undefine(domain: Domain, flags: int) -> None:
    """Remove the store with its domain, or keep it, as FLAGS say.

    :raise OperationInvalid: when there is one and they do not say.
    """
    # libvirt: qemuDomainUndefineFlags
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
