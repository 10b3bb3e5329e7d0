"""At the start of a session: VMs and roots that killed sessions left."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Final

DAY_S: Final = 24 * 60 * 60.0


#: How a machine's status says which process it is.
_PID: Final = re.compile(r"<domstatus [^>]*pid='([1-9][0-9]*)'")


def reap(cache: Path) -> None:
    """End VMs that outlived the session they belong to, as the index in CACHE tells; those that are kept run on.

    Neither the driver nor its loop is there where nothing of that kind can run.
    """
    if any(_may_run(status) for file in (cache / "roots").glob("*.json") for status in _statuses(file)):
        from pytest_embedvm.driver.restart.reaper import reap_dead
        from pytest_embedvm.loop import loop_thread

        loop_thread().run(reap_dead())


def _statuses(file: Path) -> list[Path]:
    try:
        return list(Path(json.loads(file.read_bytes())["path"]).glob("run/qemu/*.xml"))
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or gone: the driver sees to that
        return []


def _may_run(status: Path) -> bool:
    try:
        found = _PID.search(status.read_text(errors="replace"))
    except OSError:
        return False
    return found is not None and Path("/proc", found[1]).exists()


def purge(cache: Path) -> None:
    """Purge the roots of sessions that were killed more than a day ago, as the index in CACHE tells.

    The driver is not even imported where the index has nothing so old.
    """
    latest = time.time() - DAY_S
    if any(_written(file) < latest for file in (cache / "roots").glob("*.json")):
        from pytest_embedvm.driver.roots.purge import purge_dead

        purge_dead(DAY_S)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # another session has just dropped it
        return time.time()
