"""As whom a child runs, and within which limits: the words that stand before its own."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from pytest_embedvm.errors import SystemFailure

#: Once the death signal is set: is the parent still the one that spawned us? It may have died just before.
_STILL_OURS: Final = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


@dataclass(frozen=True)
class Identity:
    """A user and a group, and the other groups the user is in."""

    user: int
    group: int
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Confinement:
    """What a child is allowed; the default changes nothing."""

    #: None: the driver's own.
    identity: Identity | None = None
    #: How many processes its user may have, and files it may have open; 0: as many as the driver.
    max_processes: int = 0
    max_files: int = 0
    #: How large a core dump may be, in bytes; None: as large as the driver's.
    max_core: int | Literal["unlimited"] | None = None

    def words(self, *, outlives_parent: bool) -> tuple[str, ...]:
        """What stands before a command line, so that this holds for it.

        :param outlives_parent: otherwise its life is tied to the thread that spawns it, where the host has setpriv.
            PR_SET_PDEATHSIG by util-linux's setpriv: a preexec_fn would do the same at ten times the price, because
            Python then has to fork instead of vfork. The kernel clears the signal when the user changes: setpriv sets
            it after that.
        :raise SystemFailure: when the host has no program for what is asked.
        """
        guard = () if outlives_parent or _found("setpriv") is None else self._guard()
        return (*self._limits(guarded=bool(guard)), *self._privileges(guarded=bool(guard)), *guard)

    def _limits(self, *, guarded: bool) -> tuple[str, ...]:
        # libvirt: virProcessSetMaxProcesses, virProcessSetMaxFiles, virProcessSetMaxCoreSize
        limits = []
        if self.max_processes:
            limits.append(f"--nproc={self.max_processes}")
        if self.max_files:
            limits.append(f"--nofile={self.max_files}")
        if self.max_core is not None and not (guarded and self.max_core == 0):
            limits.append(f"--core={self.max_core}")
        return (_need("prlimit"), *limits, "--") if limits else ()

    def _privileges(self, *, guarded: bool) -> tuple[str, ...]:
        words: list[str] = []
        if self.identity:
            groups = ",".join(map(str, self.identity.groups))
            words += [f"--reuid={self.identity.user}", f"--regid={self.identity.group}"]
            words += [f"--groups={groups}" if groups else "--clear-groups"]
        if guarded:
            words += ["--pdeathsig", "KILL"]
        return (_need("setpriv"), *words, "--") if words else ()

    def _guard(self) -> tuple[str, ...]:
        # That no core is dumped costs nothing here; another limit costs a program of its own.
        script = ("ulimit -c 0; " if self.max_core == 0 else "") + _STILL_OURS
        return ("/bin/sh", "-c", script, "sh", str(os.getpid()))


#: A child like the driver itself.
UNCONFINED: Final = Confinement()


def dies_with_parent() -> bool:
    """Whether the kernel of this host ends a child when the thread that spawned it ends."""
    return _found("setpriv") is not None


@cache
def _found(program: str) -> str | None:
    return shutil.which(program)


def _need(program: str) -> str:
    found = _found(program)
    if found is None:
        raise SystemFailure(f"cannot execute binary {program}: it is not installed")
    return found
