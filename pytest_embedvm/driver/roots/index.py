"""The roots that this user's processes opened and nobody purged: one small file each, in the cache that all share.

It is for those who look for roots, and never decides whose a root is: that does its lock. A cache that cannot be
written has no index, and that is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.driver.roots import version
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.lock import Holder, holder
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import make_private_directory, set_aside, write_atomically
from pytest_embedvm.logs import HOST
from pytest_embedvm.qemu.cache import default_cache_dir


@dataclass(frozen=True)
class Entry:
    """A root, as the last process that had it open left it."""

    path: Path
    #: What its own record says; another root at this path has another.
    id: str
    version: str
    #: Who opened it last, and when, in seconds since the epoch.
    pid: int
    opened: float
    #: Whether nobody wants it once its owner is gone: it was made for a test.
    disposable: bool = False
    #: Whether its last owner gave it back; False while it is open, and for ever when its owner was killed.
    closed: bool = False

    @property
    def holder(self) -> Holder | None:
        """Who has it open now."""
        try:
            return holder(self.path.joinpath(*PLACES["run"], "driver.pid"))
        except OSError:
            return Holder(None, "")

    @property
    def alive(self) -> bool:
        """Whether a process has it open."""
        return self.holder is not None

    @property
    def dead(self) -> bool:
        """Whether its owner ended without giving it back, and nobody has it since."""
        return not self.closed and not self.alive


def _directory() -> Path:
    return default_cache_dir() / "roots"


#: How the entry of a root ends that was given back. A name tells it, because a file that takes another's name is
#: written to the disk at once by some file systems, and to rename one costs nothing.
CLOSED: Final = ".closed.json"

#: What `dispose` was told of, until it is opened.
_disposable: Final[set[Path]] = set()


def _file(root: Path, end: str = ".json") -> Path:
    return _directory() / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}{end}"


def dispose(root: Path) -> None:
    """Say that nobody wants ROOT once its owner is gone; to be said before this process opens it."""
    _disposable.add(root)


def register(root: Path, record: version.Record) -> None:
    """Note that this process has ROOT open, whose own record is RECORD."""
    file, closed = _file(root), _file(root, CLOSED)
    before = _read(file) or _read(closed)
    made_for_a_test = root in _disposable or (before is not None and before.id == record.id and before.disposable)
    _disposable.discard(root)
    entry = {"path": str(root), **asdict(record), "pid": os.getpid(), "opened": time.time()}
    with contextlib.suppress(OSError):
        make_private_directory(_directory())
        content = json.dumps({**entry, "disposable": made_for_a_test})
        write_atomically(file, content.encode() + b"\n", sync=False)
        closed.unlink(missing_ok=True)


def close(root: Path) -> None:
    """Note that its owner gives ROOT back."""
    with contextlib.suppress(OSError):
        _file(root).rename(_file(root, CLOSED))


def forget(root: Path) -> None:
    """ROOT is purged."""
    for end in (".json", CLOSED):
        with contextlib.suppress(OSError):
            _file(root, end).unlink(missing_ok=True)


def roots(older_than: float = 0.0) -> list[Entry]:
    """Every root that is still there, the one opened last first; entries of others are dropped.

    :param older_than: in seconds: only those whose entry nobody wrote since.
    """
    latest = time.time() - older_than
    files = [file for file in _directory().glob("*.json") if _written(file) <= latest]
    known = [(file, entry) for file in files if (entry := _read(file))]
    # Killed just when it was opened, a root has two entries; the one that is not closed counts.
    known.sort(key=lambda pair: (pair[1].closed, -pair[1].opened))
    found = {entry.path: entry for file, entry in reversed(known) if _is_there(file, entry)}
    return sorted(found.values(), key=lambda entry: entry.opened, reverse=True)


def _written(file: Path) -> float:
    """When FILE was written; never for one that is gone by now."""
    try:
        return file.stat().st_mtime
    except OSError:
        return math.inf


def _is_there(file: Path, entry: Entry) -> bool:
    """Whether its root still is at its path; else FILE goes."""
    try:
        record = version.read(entry.path)
    except SystemFailure:  # not readable now: who knows
        return True
    if record is not None and record.id == entry.id and os.path.realpath(entry.path) == str(entry.path):
        return True
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
    return False


def _read(file: Path) -> Entry | None:
    """The entry in FILE; one that is damaged is set aside and reported."""
    try:
        return _entry(json.loads(file.read_bytes()), closed=file.name.endswith(CLOSED))
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        HOST.warning("%s cannot be read: %s; it is kept as %s", file, error, set_aside(file))
        return None


def _entry(content: object, *, closed: bool) -> Entry:
    match content:
        case {
            "path": str(path), "id": str(identity), "version": str(release), "pid": int(pid),
            "opened": float(opened), "disposable": bool(disposable),
        }:  # fmt: skip
            return Entry(Path(path), identity, release, pid, opened, disposable, closed)
    raise ValueError("it is no entry of a root")
