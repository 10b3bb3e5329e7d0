"""Records of running machines on disk: `run/qemu/NAME.xml`, in the shape of libvirt's status files.

Whoever opens the root next finds its machines again by them, and whoever looks from outside knows what runs there.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from pytest_embedvm.driver.restart import status_xml
from pytest_embedvm.driver.restart.record import Record
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.errors import EmbedError, SystemFailure
from pytest_embedvm.files import write_atomically


def write(path: Path, record: Record) -> None:
    """Put RECORD on record, so that a reader sees all of it or what was there before.

    :raise SystemFailure: when it cannot be written.
    """
    try:
        write_atomically(path, status_xml.format(record).encode(errors="surrogateescape"), sync=record.kept)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error


def read(path: Path) -> Record:
    """What is on record at PATH.

    :raise OSError: when it cannot be read.
    :raise EmbedError: when it is no status file, or one of a version that is not known here.
    """
    return status_xml.parse(path.read_text("utf-8", errors="surrogateescape"))


def machines_of(root: Path) -> list[Record]:
    """The machines that run in ROOT, whoever has it open; needs no lock, and leaves everything as it is.

    What ends meanwhile, and what cannot be read, is left out.
    """
    found = []
    for path in sorted(root.joinpath(*PLACES["run"]).glob("*.xml")):
        with contextlib.suppress(OSError, EmbedError):
            record = read(path)
            if record.alive:
                found.append(record)
    return sorted(found, key=lambda record: record.id)
