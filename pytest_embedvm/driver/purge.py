"""Roots whose owners were killed, and nobody wants any more."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from pytest_embedvm.driver import index
from pytest_embedvm.driver.layout import KEPT, PLACES
from pytest_embedvm.driver.root import Root
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.logs import HOST

#: How long a dead root is left as it is, for those who want to look.
DAY_S: Final = 24 * 60 * 60.0


def purge_dead(older_than: float = DAY_S) -> list[Path]:
    """Purge the roots whose owner was killed, and return which.

    Spared is what somebody has open or a VM still runs in, what was given back in order, and what holds something
    that somebody may want (definitions, saved VMs, snapshots, dumps, variable stores), unless it was made for a test.
    Nothing but the driver's own files is removed.

    :param older_than: in seconds: only those that were opened so long ago.
    """
    return [entry.path for entry in index.roots(older_than) if _unwanted(entry) and _purge(entry.path)]


def _unwanted(entry: index.Entry) -> bool:
    return entry.dead and (entry.disposable or not _holds_something(entry.path)) and not _inhabited(entry.path)


def _holds_something(root: Path) -> bool:
    """Whether anything in ROOT was meant to outlive its owner."""
    return any(path.is_file() for place in KEPT for path in root.joinpath(*PLACES[place]).rglob("*"))


def _inhabited(root: Path) -> bool:
    """Whether a process that a pid file of ROOT names still runs, and knows the root."""
    return any(_belongs(file, root) for file in root.joinpath(*PLACES["run"]).glob("*.pid"))


def _belongs(pid_file: Path, root: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # it has ended, or the file is half written
        process = Path("/proc") / str(int(pid_file.read_text()))
        return os.fsencode(root) in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    return False


def _purge(root: Path) -> bool:
    try:
        Root(root).purge()
    except (EmbedError, OSError) as error:  # somebody has just opened it
        HOST.info("%s is not purged: %s", root, error)
        return False
    HOST.info("%s is purged: the process that had it open was killed", root)
    return True
