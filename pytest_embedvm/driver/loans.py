"""Files that QEMU's user owns for now, and whose they were: the root remembers it until they are given back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import set_aside, write_atomically
from pytest_embedvm.qemu.confinement import Identity

#: Where it is remembered, among the files of what runs.
RECORD: Final = "owners.json"
#: Device and inode: a file, whatever its name.
_File: TypeAlias = tuple[int, int]


@dataclass
class _Loan:
    """One file: its name, whose it was, and the machines that use it."""

    path: str
    device: int
    inode: int
    user: int
    group: int
    machines: list[str] = field(default_factory=list)


#: Those of this process that have lent something: a file may be lent by two roots.
_open: Final[set[Loans]] = set()


class Loans:
    """Of one root."""

    def __init__(self, root: Root, *, remember: bool) -> None:
        """:param remember: whether a file gets its own owner back; else root does, as with libvirt's remember_owner."""
        self._root = root
        self._remember = remember
        self._loans: dict[_File, _Loan] = {}

    def __contains__(self, status: os.stat_result) -> bool:
        """Whether the file with this STATUS is lent, by this root or another of the process."""
        return _lent((status.st_dev, status.st_ino)) is not None

    def lend(self, path: Path, borrower: Identity, machine: str, stack: contextlib.AsyncExitStack) -> None:
        """Make the file at PATH the BORROWER's, until STACK of MACHINE is unwound and no other machine uses it.

        :raise SystemFailure: when its owner cannot be changed, or that not be remembered.
        """
        status = path.stat()
        key = status.st_dev, status.st_ino
        already = _lent(key)
        user, group = (already.user, already.group) if already else (status.st_uid, status.st_gid)
        loan = self._loans.setdefault(key, _Loan(str(path), *key, user, group))
        loan.machines.append(machine)
        stack.callback(self._give_back, key, machine)
        self._save()
        try:
            os.chown(path, borrower.user, borrower.group)
        except OSError as error:
            # libvirt: virSecurityDACSetOwnershipInternal
            raise SystemFailure(
                f"unable to set user and group to '{borrower.user}:{borrower.group}' on '{path}': {error.strerror}",
                origin=ErrorDomain.SECURITY,
            ) from error

    def recover(self, alive: Collection[str]) -> None:
        """Give back what a driver that was killed had lent to machines that are not ALIVE.

        A record that cannot be read is reported and set aside.
        """
        try:
            entries = [_Loan(**entry) for entry in json.loads(self._record.read_bytes())]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            aside = set_aside(self._record)
            self._root.log.error("record %s cannot be read: %s; it is kept as %s", self._record, error, aside)  # noqa: TRY400
            return
        self._loans = {(loan.device, loan.inode): loan for loan in entries}
        _open.add(self)
        for key, loan in tuple(self._loans.items()):
            for machine in [name for name in loan.machines if name not in alive]:
                self._give_back(key, machine)

    def adopt(self, machine: str, stack: contextlib.AsyncExitStack) -> None:
        """What MACHINE, which outlived its driver, had been lent is given back when STACK is unwound."""
        for key, loan in self._loans.items():
            for _ in range(loan.machines.count(machine)):
                stack.callback(self._give_back, key, machine)

    def close(self) -> None:
        """The root is closed; what it has still lent is for whoever opens it next."""
        _open.discard(self)

    def _give_back(self, key: _File, machine: str) -> None:
        loan = self._loans[key]
        loan.machines.remove(machine)
        if not loan.machines:
            del self._loans[key]
            if _lent(key) is None:
                self._return(loan)
        self._save()

    def _return(self, loan: _Loan) -> None:
        with contextlib.suppress(OSError):  # it is gone
            status = Path(loan.path).stat()
            if (status.st_dev, status.st_ino) == (loan.device, loan.inode):  # else somebody else's file is there now
                os.chown(loan.path, *((loan.user, loan.group) if self._remember else (0, 0)))

    @property
    def _record(self) -> Path:
        return self._root.place("run") / RECORD

    def _save(self) -> None:
        if self._loans:
            _open.add(self)
        else:
            _open.discard(self)
        try:
            if self._loans:
                write_atomically(self._record, json.dumps([asdict(loan) for loan in self._loans.values()]).encode())
            else:
                self._record.unlink(missing_ok=True)
        except OSError as error:
            raise SystemFailure(f"Failed to create file '{self._record}': {error.strerror}") from error


def _lent(file: _File) -> _Loan | None:
    """The loan of FILE, by whichever root of this process."""
    return next((loan for loans in _open if (loan := loans._loans.get(file))), None)
