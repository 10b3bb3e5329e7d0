"""`embedvm ps`: the roots that live, and their VMs."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from pytest_embedvm.cli.machines import Machine, Root, roots


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("ps", help="list the roots that live, and their VMs")
    parser.add_argument("--json", action="store_true", help="as JSON: ages in seconds")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    living = roots()
    if args.json:
        print(json.dumps([_root_as_json(root) for root in living], indent=2))
    elif living:
        print("\n".join(line for root in living for line in _lines(root)))
    else:
        print("no root is open, and no VM runs")
    return 0


def _root_as_json(root: Root) -> dict[str, Any]:
    return {
        "number": root.number,
        "path": str(root.path),
        "label": root.label,
        "pid": root.holder.pid if root.holder else None,
        "command": root.holder.command if root.holder else None,
        "domains": [_machine_as_json(machine) for machine in root.machines],
    }


def _machine_as_json(machine: Machine) -> dict[str, Any]:
    return {
        "id": machine.id,
        "name": machine.name,
        "state": machine.state,
        "reason": machine.reason,
        "pid": machine.pid,
        "age_s": round(time.time() - machine.started, 3),
        "kept": machine.kept,
    }


def _lines(root: Root) -> list[str]:
    owner = f"open in {root.holder}" if root.holder else "nobody has it open"
    rows = [_row(machine) for machine in root.machines]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{root.number}  {root.path}  [{root.label}]",
        f"   {owner}",
        *("   " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in rows),
    ]


def _row(machine: Machine) -> tuple[str, ...]:
    state = f"{machine.state} ({machine.reason})"
    since = age(time.time() - machine.started)
    return str(machine.id), machine.name, state, f"pid {machine.pid}", since, "kept" if machine.kept else ""


def age(seconds: float) -> str:
    """SECONDS for a person, in two units at most."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")) if n]
    return " ".join(parts[:2]) or "0 s"
