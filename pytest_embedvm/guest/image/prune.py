"""Old guests in the cache: the few most recent stay, and each that a living process has been given."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.hold import hold_directory, remove_unheld
from pytest_embedvm.guest.image.manifest import GuestImage

#: A guest takes some 50 MB; a host rarely has more kernels than this.
KEPT: Final = 3


def hold(image: GuestImage) -> bool:
    """Keep IMAGE from being pruned for as long as this process lives; False when it is going, or gone."""
    return hold_directory(image.kernel.parent)


def prune(cache_dir: Path) -> None:
    """Remove all guests but the most recently used, and what a killed process has half made; under the guests' lock."""
    guests = cache_dir / "guest"
    for half in (*guests.glob(".new-*"), *(cache_dir / "packages").glob(".fetch-*")):
        _discard(half)
    found = sorted((path for path in guests.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime_ns)
    for directory in found[:-KEPT]:
        remove_unheld(directory)
    for manifest in guests.glob("*.json"):
        if not _leads_somewhere(manifest):
            _discard(manifest)


def _discard(path: Path) -> None:
    """Remove PATH, if it can be removed: pruning is no reason to fail."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _leads_somewhere(manifest: Path) -> bool:
    try:
        return Path(json.loads(manifest.read_bytes())["image"]["kernel"]).exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False
