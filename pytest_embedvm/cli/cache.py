"""`embedvm cache`: the templates and images that were made for tests."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.ps import age

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_embedvm.guest.templates.entry import Entry

_UNITS: Final = ("bytes", "KiB", "MiB", "GiB", "TiB")


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("cache", help="list or remove templates and images")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list them, the one used last first")
    listing.add_argument("--json", action="store_true", help="as JSON: sizes in bytes, ages in seconds")
    listing.set_defaults(run=run, do=_list)
    removing = actions.add_parser(
        "rm",
        help="remove some",
        description="Remove templates and images. What a living process was given is left alone, and so is what "
        "another one stands on. What tests need of it they make again.",
    )
    chosen = removing.add_mutually_exclusive_group(required=True)
    chosen.add_argument("keys", nargs="*", default=[], metavar="KEY", help="what its key begins with")
    chosen.add_argument("--kind", choices=("template", "image"), help="all of this kind")
    chosen.add_argument("--all", action="store_true", help="all of them")
    removing.set_defaults(run=run, do=_remove)


def run(args: argparse.Namespace) -> int:
    from pytest_embedvm.guest.templates.entry import entries
    from pytest_embedvm.qemu.cache import default_cache_dir

    do: Callable[[argparse.Namespace, list[Entry]], int] = args.do
    return do(args, entries(default_cache_dir()))


def _list(args: argparse.Namespace, found: list[Entry]) -> int:
    if args.json:
        print(json.dumps([_as_json(entry) for entry in found], indent=2))
        return 0
    rows = [_row(entry) for entry in found]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())
    print(f"{_size(sum(entry.size for entry in found))} in {_place()}" if found else f"nothing is in {_place()}")
    return 0


def _as_json(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "kind": entry.kind,
        "title": entry.title,
        "path": str(entry.directory),
        "size_bytes": entry.size,
        "age_s": round(time.time() - entry.last_used, 3),
        "in_use": entry.held,
        "pids": list(entry.holders),
        "stands_on": sorted(path.name for path in entry.stands_on),
        "whole": entry.whole,
    }


def _row(entry: Entry) -> tuple[str, ...]:
    used = f"used {age(time.time() - entry.last_used)} ago"
    state = _users(entry) or ("" if entry.whole else "damaged, or dropped")
    return entry.key, entry.kind, _size(entry.size), used, entry.title, state


def _users(entry: Entry) -> str:
    return f"in use by {', '.join(map(_process, entry.holders))}" if entry.holders else ""


def _process(pid: int) -> str:
    from pytest_embedvm.qemu.process import command_of

    with suppress(OSError):
        return f"process {pid} ({command_of(pid)})"
    return f"process {pid}"


def _size(count: float) -> str:
    """COUNT bytes for a person."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if count >= 100 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def _place() -> str:
    from pytest_embedvm.qemu.cache import default_cache_dir

    return str(default_cache_dir())


def _remove(args: argparse.Namespace, found: list[Entry]) -> int:
    from pytest_embedvm.guest.templates import pruning
    from pytest_embedvm.qemu.cache import default_cache_dir

    wanted = _those(args.keys, found) if args.keys else [e for e in found if args.all or e.kind == args.kind]
    left = pruning.remove(wanted, default_cache_dir())
    stayed = {entry.directory for entry in left}
    for entry in wanted:
        if entry.directory not in stayed:
            print(f"removed {entry.kind} {entry.key} ({entry.title})")
    for entry in left:
        why = _why(entry, pruning.standing_on(entry, found))
        print(f"embedvm cache: {entry.kind} {entry.key} ({entry.title}) is left alone: {why}", file=sys.stderr)
    return 1 if left else 0


def _those(keys: Iterable[str], found: list[Entry]) -> list[Entry]:
    """:raise CommandFailed: when a key is none, or the beginning of several."""
    wanted: list[Entry] = []
    for key in keys:
        fitting = [entry for entry in found if entry.key.startswith(key)]
        if len({entry.key for entry in fitting}) != 1:
            names = ", ".join(dict.fromkeys(entry.key for entry in fitting or found)) or "nothing"
            raise CommandFailed(f"'{key}' is {'the key of several' if fitting else 'no key'}: there is {names}")
        wanted += [entry for entry in fitting if entry not in wanted]
    return wanted


def _why(entry: Entry, above: list[Entry]) -> str:
    if entry.holders:
        return _users(entry)
    if above:
        return f"{', '.join(f'{other.kind} {other.key}' for other in above)} needs it"
    return "a process of another container uses it, or it is another user's"
