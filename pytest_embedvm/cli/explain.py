"""`embedvm explain`: which other drivers a domain XML would call."""

from __future__ import annotations

import argparse
from typing import Any, Final

from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.source import read_xml

#: The exit status when the domain calls at least one driver.
CALLS: Final = 3

DESCRIPTION: Final = f"""\
List which other drivers than QEMU's the start of a domain would call, and why: an element a line, with its XPath.
Nothing is started, and elements that this driver does not support are listed too.

exit status: 0 when it calls none, {CALLS} when it calls some, 1 when FILE cannot be read or is no <domain>."""


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="which other drivers a domain XML would call, and why",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="a domain XML; - is the standard input")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pytest_embedvm.api.error import libvirtError
    from pytest_embedvm.api.explain import explain

    try:
        needs = explain(read_xml(args.file))
    except libvirtError as error:
        raise CommandFailed(f"{args.file}: {error}") from None
    for need in needs:
        print(need)
    return CALLS if needs else 0
