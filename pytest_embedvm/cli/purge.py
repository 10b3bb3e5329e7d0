"""`embedvm purge`: roots whose owner has died are removed."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import look
from pytest_embedvm.errors import EmbedError

if TYPE_CHECKING:
    from pytest_embedvm.driver.roots.index import Entry

_UNITS_S: Final = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "purge",
        help="remove roots whose owner has died",
        description="Remove what the driver made in roots that were made for a test whose process has died; or in the "
        "ROOTs that are named, whoever made them. A root that somebody has open, or in which a VM runs, is left alone.",
    )
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", help="paths")
    parser.add_argument(
        "--older-than", type=_seconds, default=0.0, metavar="AGE", help="only those opened before: 90s, 30min, 12h, 7d"
    )
    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"'{text}' is no age; write 90s, 30min, 12h or 7d")
    return float(found[1]) * _UNITS_S[found[2]]


def run(args: argparse.Namespace) -> int:
    failed = 0
    for path in _chosen(args.roots, args.older_than):
        try:
            _purge(path)
        except (CommandFailed, EmbedError) as error:
            print(f"embedvm purge: {error}", file=sys.stderr)
            failed = 1
        else:
            print(f"purged {path}")
    return failed


def _chosen(named: list[Path], older_than: float) -> Iterator[Path]:
    from pytest_embedvm.driver.roots import index

    known = {entry.path: entry for entry in index.roots(older_than)}
    if named:
        yield from _those(named, known, older_than)
        return
    for path, entry in known.items():
        if entry.dead and entry.disposable:
            yield path
        elif entry.dead:
            print(f"left {path}: it was not made for a test; name it to purge it", file=sys.stderr)


def _those(named: list[Path], known: dict[Path, Entry], older_than: float) -> Iterator[Path]:
    for path in (given.expanduser().resolve() for given in named):
        if not (path / "run/qemu").is_dir():
            raise CommandFailed(f"{path} is no root")
        if older_than and path not in known:
            print(f"left {path}: nothing says that it was opened before that", file=sys.stderr)
        else:
            yield path


def _purge(path: Path) -> None:
    """:raise CommandFailed, EmbedError: when it is in use, or cannot be removed."""
    import asyncio

    from pytest_embedvm.driver.restart.reaper import reap
    from pytest_embedvm.driver.roots.purge import purge

    for orphan in asyncio.run(reap(path)):
        print(f"ended domain '{orphan.name}' in {path}, whose owner was dead")
    kept = look(path).machines
    if kept:
        names = ", ".join(machine.name for machine in kept)
        raise CommandFailed(f"{path} is left alone, VMs run in it that were to outlive their owner: {names}")
    purge(path)
