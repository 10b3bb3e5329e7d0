"""`embedvm xml`: a VM as it runs."""

from __future__ import annotations

import argparse
from typing import Any

from pytest_embedvm.cli.choosing import add_target, only_machine


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "xml",
        help="the XML of a VM as it runs",
        description="Print the live XML of a VM: what libvirt's XMLDesc() gives, with ports, terminals and addresses.",
    )
    add_target(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    print(only_machine(args.words).xml.rstrip("\n"))
    return 0
