"""What a program and all its children changed in the file system, and reached by sockets: told by strace."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CHANGING: Final = """
    open openat openat2 creat mkdir mkdirat mknod mknodat symlink symlinkat link linkat rename renameat renameat2
    unlink unlinkat rmdir truncate chmod fchmodat fchmodat2 chown lchown fchownat utime utimes utimensat
    setxattr lsetxattr removexattr lremovexattr mount umount2""".split()
REACHING: Final = ["bind", "connect", "sendto", "sendmsg", "sendmmsg"]

_RETURNED: Final = re.compile(r"(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")
_PATH: Final = re.compile(r'(?:(?:AT_FDCWD|\d+)<((?:[^\\>]|\\.)*)>, )?"((?:[^"\\]|\\.)*)"')
_SOCKET: Final = re.compile(r'sun_path=@?"((?:[^"\\]|\\.)*)"')
_FAMILY: Final = re.compile(r"sa_family=(\w+)")
_FOR_WRITING: Final = re.compile(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE")


@dataclass(frozen=True)
class Touch:
    """One call, and a place that it changed or reached: a path, or the family of a socket's address."""

    call: str
    place: str


def run(words: Sequence[str], output: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run WORDS, with what they and their descendants do in OUTPUT."""
    calls = ",".join(f"?{call}" for call in (*CHANGING, *REACHING))
    strace = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", "signal=none", "-e", f"trace={calls}", "-o", str(output)]
    return subprocess.run(
        [*strace, *words], check=False, capture_output=True, text=True, timeout=240, env=environment, cwd=output.parent
    )


def touches(output: Path) -> Iterator[Touch]:
    """What in OUTPUT changed something, or reached for a socket, be it in vain."""
    begun: dict[str, str] = {}
    opened: dict[tuple[str, str], str] = {}
    for line in output.read_text().splitlines():
        thread, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            begun[thread] = rest.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in rest:
            rest = begun.pop(thread, "") + rest.partition("resumed>")[2]
        match = _RETURNED.match(rest.strip())
        if match is None:
            continue
        call, arguments, result, path = match.groups()
        if path is not None:
            opened[thread, result] = opened["any", result] = path
        for touch in _reached(call, arguments) if call in REACHING else _changed(call, arguments, int(result)):
            # Sockets are reached by their directory's descriptor, which the driver opens just before, for a child too.
            number, _, name = touch.place.removeprefix("/proc/self/fd/").partition("/")
            directory = opened.get((thread, number)) or opened.get(("any", number))
            yield Touch(call, f"{directory}/{name}") if directory and name else touch


def _changed(call: str, arguments: str, result: int) -> Iterator[Touch]:
    if result < 0 or (call.startswith("open") and not _FOR_WRITING.search(arguments)):
        return
    for directory, path in _PATH.findall(arguments):
        yield Touch(call, os.path.normpath(Path(_plain(directory) or "/", _plain(path))))


def _reached(call: str, arguments: str) -> Iterator[Touch]:
    for path in _SOCKET.findall(arguments):
        yield Touch(call, _plain(path))
    for family in _FAMILY.findall(arguments):
        if family != "AF_UNIX":
            yield Touch(call, family)


def _plain(text: str) -> str:
    """TEXT without strace's escapes."""
    return re.sub(r'\\(["\\])', r"\1", text)
