"""Which version wrote a root: a newer one's is left alone."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm import __version__
from pytest_embedvm.errors import ConfigUnsupported, SystemFailure
from pytest_embedvm.files import write_atomically

#: Below the root.
RECORD: Final = "lib/qemu/embedvm.json"


@dataclass(frozen=True)
class Record:
    """What a root says of itself."""

    #: Of the last that had it open.
    version: str
    #: Told apart from any other root that stands or stood at its path.
    id: str


def read(root: Path) -> Record | None:
    """What ROOT says of itself; None for one without a record: it is new, older than records, or libvirt's.

    :raise SystemFailure: when its record cannot be read.
    """
    path = root / RECORD
    try:
        text = path.read_text("utf-8")
        # Empty as after a power failure: a record is not synced.
        return _record(json.loads(text)) if text else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SystemFailure(
            f"cannot tell which version wrote root '{root}': {path} cannot be read: {error}; remove it if it was not "
            f"newer than {__version__}"
        ) from error


def _record(content: object) -> Record:
    match content:
        case {"version": str(version), "id": str(identity)} if _release(version):
            return Record(version, identity)
    raise ValueError("it has no version")


def check(root: Path) -> Record | None:
    """What ROOT says of itself, once it is known that this version may use it. Touches nothing.

    :raise ConfigUnsupported: when a newer version wrote it; names both.
    :raise SystemFailure: when that cannot be told.
    """
    record = read(root)
    if record is not None and _release(record.version) > _release(__version__):
        raise ConfigUnsupported(
            f"root '{root}' was written by pytest-embedvm {record.version}, this is the older {__version__}: "
            "it could lose what it does not know; use that version, or another root"
        )
    return record


def record(root: Path) -> Record:
    """Write down that this version uses ROOT; what an older one wrote is used as it is.

    :raise ConfigUnsupported, SystemFailure: as `check` does; or when it cannot be written.
    """
    known = check(root)
    if known is not None and known.version == __version__:
        return known
    new = Record(__version__, known.id if known else uuid.uuid4().hex)
    try:
        write_atomically(root / RECORD, json.dumps(asdict(new)).encode() + b"\n", sync=False)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{root / RECORD}': {error.strerror}") from error
    return new


def _release(version: str) -> tuple[int, ...]:
    """The numbers that VERSION begins with, so that 0.10 is newer than 0.9, and 1.0 is 1.0.0."""
    found = re.match(r"\d{1,9}(?:\.\d{1,9})*", version)
    numbers = [int(number) for number in found[0].split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
