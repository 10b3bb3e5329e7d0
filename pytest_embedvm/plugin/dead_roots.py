"""At the start of a session: roots that killed sessions left."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

DAY_S: Final = 24 * 60 * 60.0


def purge(cache: Path) -> None:
    """Purge the roots of sessions that were killed more than a day ago, as the index in CACHE tells.

    The driver is not even imported where the index has nothing so old.
    """
    latest = time.time() - DAY_S
    if any(_written(file) < latest for file in (cache / "roots").glob("*.json")):
        from pytest_embedvm.driver.purge import purge_dead

        purge_dead(DAY_S)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:  # another session has just dropped it
        return time.time()
