"""The labels of roots, and the lines that the driver itself writes into a machine's log."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from pytest_embedvm.constants import DomainShutoffReason
from pytest_embedvm.domain.model import Domain
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import PRIVATE_FILE
from pytest_embedvm.logs import Log

#: How much of a directory's name, and at least how much of its path's digest, is in a label.
NAME_CHARACTERS: Final = 20
DIGEST_CHARACTERS: Final = 4

#: The path of each label that this process has given: one that is given twice would name no root.
_paths: Final[dict[str, Path]] = {}


def label(root: Path) -> str:
    """A short name for ROOT that no other root of this process has: its directory's, and digits of its path's digest.

    The same path has the same label, in other processes too unless two labels met there.
    """
    name = "".join(c if c.isalnum() or c in "._-" else "_" for c in root.name)[:NAME_CHARACTERS]
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()
    candidates = (f"{name}-{digest[:length]}" for length in range(DIGEST_CHARACTERS, len(digest) + 1))
    return next(candidate for candidate in candidates if _paths.setdefault(candidate, root) == root)


def open_log(path: Path, *, make: bool = True) -> int:
    """A descriptor that appends to the log at PATH, and can read it.

    :raise SystemFailure: when it cannot be opened, or is a symbolic link.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if make else 0)
    try:
        return os.open(path, flags, PRIVATE_FILE)
    except OSError as error:
        raise SystemFailure(f"failed to open logfile {path}: {error.strerror}") from error


@contextlib.contextmanager
def starting_up(log: Log, path: Path, root: Path, command_line: str) -> Iterator[IO[bytes]]:
    """The machine's log at PATH, opened to append, with what its label means and the command line on its end."""
    with os.fdopen(open_log(path), "wb", buffering=0) as file:
        _write(file, log, f"starting up in root {shlex.quote(str(root))}\n{command_line}")
        yield file


def shutting_down(log: Log, path: Path, reason: DomainShutoffReason) -> None:
    """Write into the log at PATH why its machine has ended; a log that is gone is not made anew."""
    # libvirt: qemuProcessStop, whose words for the reasons are virDomainShutoffReason's
    word = reason.name.lower().replace("_", " ")
    log.info("shut down, reason=%s", word)
    note(log, path, f"shutting down, reason={word}")


def note(log: Log, path: Path, text: str) -> None:
    """Write TEXT into the log at PATH; a log that is gone is not made anew."""
    try:
        with os.fdopen(open_log(path, make=False), "wb", buffering=0) as file:
            _write(file, log, text)
    except (OSError, SystemFailure) as error:
        log.warning("this is not in %s: %s: %s", path, text, error)


def unknown(log: Log, domain: Domain, elements: Sequence[str]) -> None:
    """Warn that ELEMENTS of DOMAIN's XML were ignored."""
    log.about(domain.name).warning("ignored, because libvirt's schema does not know it: %s", ", ".join(elements))


def _write(file: IO[bytes], log: Log, text: str) -> None:
    moment = datetime.now(UTC).isoformat(sep=" ", timespec="milliseconds")
    file.write(f"{moment}: [{log.label}] {text}\n".encode(errors="surrogateescape"))
