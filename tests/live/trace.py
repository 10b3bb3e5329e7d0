"""What a program and all its children did to the file system and the network, by strace."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

#: What changes a file or makes one, and what reaches a socket: the name of the call.
CHANGES = (
    "open", "openat", "openat2", "creat", "mkdir", "mkdirat", "mknod", "mknodat", "symlink", "symlinkat", "link", "linkat",
    "rename", "renameat", "renameat2", "unlink", "unlinkat", "rmdir", "truncate", "chmod", "fchmodat", "chown", "lchown",
    "fchownat", "utimensat", "setxattr", "lsetxattr", "removexattr", "mount", "bind", "connect", "sendto", "sendmsg",
)  # fmt: skip

_CALL = re.compile(r"^(?:\[pid +)?\d+\]? +(?:<\.\.\. )?(\w+)(?: resumed>)?\((.*)\) += (-?\d+|\?)(.*)$")
_STRING = re.compile(r'(?:(?:AT_FDCWD|\d+)<((?:[^\\>]|\\.)*)>, )?"((?:[^"\\]|\\.)*)"')
_SOCKET = re.compile(r'sun_path=(@?)"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Touch:
    """One call, and one of the places that it changed or reached."""

    call: str
    place: str
    line: str


def run(words: Sequence[str], output: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run WORDS with every call of theirs and of their descendants' in OUTPUT."""
    calls = ",".join(f"?{call}" for call in CHANGES)
    strace = ["strace", "-f", "-y", "-qq", "-s", "4096", "-e", "signal=none", "-e", f"trace={calls}", "-o", str(output)]
    return subprocess.run([*strace, *words], check=False, capture_output=True, text=True, timeout=240, env=environment)


def touches(output: Path) -> Iterator[Touch]:
    """What in OUTPUT changed something, or reached a socket."""
    unfinished: dict[str, str] = {}
    for line in output.read_text(errors="surrogateescape").splitlines():
        pid, _, rest = line.partition(" ")
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = rest.removesuffix("<unfinished ...>")
            continue
        if "resumed>" in rest:
            rest = unfinished.pop(pid, "") + rest.partition("resumed>")[2]
        if match := re.match(r" *(\w+)\((.*)\) += (-?\d+)", rest):
            yield from _touches(match[1], match[2], int(match[3]), line)


def _touches(call: str, arguments: str, result: int, line: str) -> Iterator[Touch]:
    if call in ("bind", "connect", "sendto", "sendmsg"):
        yield from _reached(call, arguments, line)
        return
    if call.startswith("open") and not re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_TMPFILE", arguments):
        return
    if result < 0:
        return
    for directory, path in _STRING.findall(arguments):
        yield Touch(call, os.path.normpath(os.path.join(_plain(directory) or "/", _plain(path))), line)


def _reached(call: str, arguments: str, line: str) -> Iterator[Touch]:
    if call in ("sendto", "sendmsg") and "sa_family" not in arguments:
        return
    for abstract, path in _SOCKET.findall(arguments):
        yield Touch(call, f"@{path}" if abstract else _plain(path), line)
    if (family := re.search(r"sa_family=(\w+)", arguments)) and family[1] != "AF_UNIX":
        yield Touch(call, family[1], line)


def _plain(text: str) -> str:
    """TEXT without strace's escapes."""
    return (
        text.encode("latin-1", "backslashreplace")
        .decode("unicode_escape")
        .encode("latin-1", "replace")
        .decode(errors="replace")
    )
