"""A cache of the test's own, and other processes that use it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

KEY = "0123456789abcdef"

#: Gets KEY of the cache that it is told. Where it has to make it, it says so, waits for a line, and then makes it.
OTHER = """
import os, sys
from pathlib import Path
from pytest_embedvm.guest.templates.store import Store

cache, key = Path(sys.argv[1]), sys.argv[2]

def say(word):
    print(word, flush=True)

def make(folder):
    (folder / "ram").write_bytes(b"half")
    say(f"making in {folder.name}")
    sys.stdin.readline()
    (folder / "ram").write_bytes(b"all of it")
    with (cache / "calls").open("a") as calls:
        calls.write(f"{os.getpid()}\\n")

store = Store(cache / "templates", what="template", limit=None)
directory = store.get(key, make, title="a guest", anew=sys.argv[3] or None, progress=say)
say(f"got {(directory / 'ram').read_text()} in {directory.name}")
sys.stdin.readline()
"""


class Other:
    """Another process that wants a template, and holds it until it ends."""

    def __init__(self, cache: Path, key: str, run: str) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER, str(cache), key, run],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    def until(self, word: str) -> str:
        """The next line it says that begins with WORD."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.startswith(word):
                return line.rstrip()
        raise AssertionError(f"it ended and had not said {word!r}")

    def go_on(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of this test and what it starts."""
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def other(cache: Path) -> Iterator[Callable[..., Other]]:
    """Starts one more process that wants a template."""
    started: list[Other] = []

    def start(key: str = KEY, run: str = "") -> Other:
        started.append(Other(cache, key, run))
        return started[-1]

    yield start
    for one in started:
        one.kill()
