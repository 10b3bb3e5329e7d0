"""What leaves the cache: what nobody has used for longest, as much as is too much."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from pytest_embedvm.files import HALF, PRIVATE_FILE
from pytest_embedvm.guest.image.hold import remove_unheld
from pytest_embedvm.guest.templates.contents import forget_digests
from pytest_embedvm.guest.templates.entry import KINDS, Entry, entries

#: How many days something stays that nobody uses.
KEPT_DAYS: Final = 30


def prune(cache_dir: Path, limit: int | None) -> None:
    """Remove from CACHE_DIR what was not used for 30 days, and then what was not used for longest, down to LIMIT bytes.

    What a living process holds stays, and so does what something else stands on that stays. What is no longer as it was
    made goes, and what killed processes had half made.
    """
    _sweep(cache_dir)
    before = time.time() - KEPT_DAYS * 86400
    forget_digests(cache_dir, before)
    found = entries(cache_dir)
    size = sum(entry.size for entry in found)
    for entry in _from_the_top(found):
        too_much = limit is not None and size > limit
        if (too_much or entry.last_used < before or not entry.whole) and _remove(entry, found):
            size -= entry.size


def remove(wanted: Iterable[Entry], cache_dir: Path) -> list[Entry]:
    """Remove WANTED from CACHE_DIR; returns those that stay, because they are held or others stand on them."""
    found = entries(cache_dir)
    directories = {entry.directory for entry in wanted}
    chosen = [entry for entry in found if entry.directory in directories]
    return [entry for entry in _from_the_top(chosen) if not _remove(entry, found)]


def standing_on(entry: Entry, among: Iterable[Entry]) -> list[Entry]:
    """Those of AMONG that cannot do without ENTRY."""
    return [other for other in among if entry.directory in other.stands_on]


def _from_the_top(found: list[Entry]) -> Iterator[Entry]:
    """FOUND, the one used longest ago first, but none before what stands on it."""
    left = sorted(found, key=lambda entry: entry.last_used)
    while left:
        entry = next((each for each in left if not standing_on(each, left)), left[0])
        left.remove(entry)
        yield entry


def _remove(entry: Entry, found: list[Entry]) -> bool:
    if standing_on(entry, found) or not remove_unheld(entry.directory):
        return False
    found.remove(entry)
    return True


def _sweep(cache_dir: Path) -> None:
    """Remove what killed processes had half made, or half removed."""
    for name in KINDS:
        for half in (cache_dir / name).glob(f"{HALF}*-*"):
            key = half.name.removeprefix(HALF).rpartition("-")[0].partition(".")[0]
            lock = FileLock(half.with_name(f"{key}.lock"), timeout=0, mode=PRIVATE_FILE)
            with suppress(Timeout, OSError), lock:  # who has it is making one
                remove_unheld(half)
