"""The end of a root: of one that is named, or of those whose owners were killed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from pytest_embedvm.driver.loans import Loans
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.logs import HOST

#: How long a dead root is left as it is, for those who want to look.
DAY_S: Final = 24 * 60 * 60.0


def purge(path: Path) -> None:
    """Give back what QEMU was lent by a driver that was killed, and remove what the driver made in the root at PATH.

    :raise ConfigUnsupported: when a newer version wrote it, or it can be no root.
    :raise SystemFailure: when it is open, here or in another process.
    """
    root = Root(path)
    with root.locked():
        Loans(root, remember=True).recover(())
    root.purge()


def purge_dead(older_than: float = DAY_S) -> list[Path]:
    """Purge the roots that were made for a test whose process was killed, and return which.

    Spared is what somebody has open or a VM still runs in, and every root that a user named. Nothing but the
    driver's own files is removed. Never fails.

    :param older_than: in seconds: only those that were opened so long ago.
    """
    return [entry.path for entry in index.roots(older_than) if _unwanted(entry) and _purged(entry.path)]


def _unwanted(entry: index.Entry) -> bool:
    return entry.dead and entry.disposable and not _inhabited(entry.path)


def _inhabited(root: Path) -> bool:
    """Whether a process that a pid file of ROOT names still runs, and knows the root."""
    return any(_belongs(file, root) for file in root.joinpath(*PLACES["run"]).glob("*.pid"))


def _belongs(pid_file: Path, root: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # it has ended, or the file is half written
        process = Path("/proc") / str(int(pid_file.read_text()))
        return os.fsencode(root) in (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
    return False


def _purged(root: Path) -> bool:
    try:
        purge(root)
    except (EmbedError, OSError) as error:  # somebody has just opened it
        HOST.info("%s is not purged: %s", root, error)
        return False
    HOST.info("%s is purged: the process that had it open was killed", root)
    return True
