"""A file system with little room, for one command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_MOUNT = 'mount -t tmpfs -o size="$1" small "$2" && shift 2 && exec "$@"'


def on_a_small_disk(place: Path, size: str) -> list[str]:
    """The words before a command that is to find an empty file system of SIZE at PLACE; it is gone afterwards.

    Skips the test where none can be mounted.
    """
    words = ["unshare", "-r", "-m", "sh", "-c", _MOUNT, "sh", size, str(place)]
    tried = subprocess.run([*words, sys.executable, "-c", ""], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"no small disk can be mounted here: {tried.stderr.strip()}")
    return words
