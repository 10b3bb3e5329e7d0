"""A cpio archive in the `newc` form, the one the kernel unpacks as its first root."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import Final

# linux: Documentation/driver-api/early-userspace/buffer-format.rst
MAGIC: Final = "070701"
TRAILER: Final = "TRAILER!!!"
BLOCK: Final = 512


@dataclass(frozen=True)
class _Entry:
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


class Archive:
    """Files of a root-to-be. The same content gives the same bytes: sorted, numbered, without times."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def __contains__(self, path: str) -> bool:
        return path.strip("/") in self._entries

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Add a directory and those above it."""
        self._add(path, _Entry(stat.S_IFDIR | mode))

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file; one that is there is replaced."""
        self._add(path, _Entry(stat.S_IFREG | mode, data))

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link at PATH to TARGET."""
        self._add(path, _Entry(stat.S_IFLNK | 0o777, target.encode()))

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a device node."""
        self._add(path, _Entry(stat.S_IFCHR | mode, device=(major, minor)))

    def to_bytes(self) -> bytes:
        """The archive, uncompressed, padded to 512 bytes as cpio(1) does."""
        parts = [_member(path, entry, number) for number, (path, entry) in enumerate(sorted(self._entries.items()), 1)]
        parts.append(_member(TRAILER, _Entry(0), 0))
        return _padded(b"".join(parts), BLOCK)

    def _add(self, path: str, entry: _Entry) -> None:
        name = path.strip("/")
        above = name.rpartition("/")[0]
        if above and above not in self._entries:
            self.directory(above)
        self._entries[name] = entry


def _member(path: str, entry: _Entry, number: int) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    uid = gid = mtime = checksum = 0
    fields = (
        number, entry.mode, uid, gid, links, mtime, len(entry.data), 0, 0, *entry.device, len(name), checksum,
    )  # fmt: skip
    header = MAGIC + "".join(f"{value:08x}" for value in fields)
    return _padded(header.encode() + name, 4) + _padded(entry.data, 4)


def _padded(data: bytes, to: int) -> bytes:
    return data + b"\0" * (-len(data) % to)
