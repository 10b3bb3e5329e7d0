"""Domain XML that a command is given."""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_embedvm.cli.errors import CommandFailed


def read_xml(file: str) -> str:
    """The text of FILE, where - is the standard input.

    :raise CommandFailed: when it cannot be read, or is not UTF-8.
    """
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except OSError as error:
        raise CommandFailed(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise CommandFailed(f"cannot read {file}: {error}") from None
