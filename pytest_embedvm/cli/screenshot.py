"""`embedvm screenshot`: what the VM's screen shows."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from pytest_embedvm.cli.choosing import add_target, machine
from pytest_embedvm.cli.door import Door, Refused
from pytest_embedvm.cli.errors import CommandFailed


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "screenshot",
        help="a picture of a VM's screen",
        description="Write what the VM's first screen shows to FILE: as PNG, or as PPM where QEMU cannot write PNG.",
    )
    add_target(parser, "[FILE]", "where to write it; DOMAIN.png or DOMAIN.ppm in the current directory unless told")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found, rest = machine(args.words)
    if len(rest) > 1:
        raise CommandFailed(f"one file at most, not {' '.join(rest)}")
    with Door.open(found.door) as door:
        print(_to(door, Path(rest[0])) if rest else _to_default(door, found.name))
    return 0


def _to(door: Door, target: Path) -> Path:
    return _save(door, target, "ppm" if target.suffix.lower() == ".ppm" else "png")


def _to_default(door: Door, name: str) -> Path:
    # A domain's name may hold what a file's may not.
    stem = name.replace("/", "_")
    try:
        return _save(door, Path(f"{stem}.png"), "png")
    except Refused:  # QEMU before 7.1, or one that was built without libpng; or there is no screen, which it says again
        return _save(door, Path(f"{stem}.ppm"), "ppm")


def _save(door: Door, target: Path, kind: str) -> Path:
    """Let QEMU write to a descriptor of ours, so that it opens no file; TARGET is there when it is whole."""
    try:
        made, temporary = tempfile.mkstemp(prefix=".embedvm-", dir=target.parent)
    except OSError as error:
        raise CommandFailed(f"cannot write {target}: {error.strerror}") from None
    os.close(made)
    try:
        # QEMU takes it from the set only with the mode that it would have opened the file in.
        descriptor = os.open(temporary, os.O_WRONLY)
        try:
            _dump(door, descriptor, kind)
        finally:
            os.close(descriptor)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target


def _dump(door: Door, descriptor: int, kind: str) -> None:
    number = door.execute("add-fd", descriptors=[descriptor])["fdset-id"]
    try:
        form = {} if kind == "ppm" else {"format": kind}
        door.execute("screendump", {"filename": f"/dev/fdset/{number}", **form})
    finally:
        door.execute("remove-fd", {"fdset-id": number})
