"""As much of ELF as a guest's image needs: segments, notes, the dynamic section. 64-bit, little endian."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
PT_NOTE: Final = 4
DT_NEEDED: Final = 1
DT_STRTAB: Final = 5
DT_RPATH: Final = 15
DT_RUNPATH: Final = 29

MACHINES: Final = {62: "x86_64", 183: "aarch64"}


class NotELF(Exception):
    """The data is no 64-bit little-endian ELF file, or is cut short."""


@dataclass(frozen=True)
class Segment:
    """One program header."""

    kind: int
    offset: int
    address: int
    size: int


@dataclass(frozen=True)
class Dynamic:
    """What a binary asks of the dynamic loader."""

    interpreter: str | None = None
    needed: tuple[str, ...] = ()
    search: tuple[str, ...] = field(default=())


class ELF:
    """A parsed ELF file.

    :raise NotELF: when DATA is none.
    """

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise NotELF(f"it begins with {data[:6]!r}")
        self.data = data
        try:
            self.machine: int = struct.unpack_from("<H", data, 18)[0]
            self.segments = tuple(self._segments())
        except struct.error as error:
            raise NotELF(f"its headers are cut short: {error}") from error

    def _segments(self) -> Iterator[Segment]:
        offset: int = struct.unpack_from("<Q", self.data, 32)[0]
        size, count = struct.unpack_from("<HH", self.data, 54)
        for index in range(count):
            kind, _, at, address, _, length = struct.unpack_from("<IIQQQQ", self.data, offset + index * size)
            yield Segment(kind, at, address, length)

    def of_kind(self, kind: int) -> list[Segment]:
        return [segment for segment in self.segments if segment.kind == kind]

    def notes(self) -> Iterator[tuple[bytes, int, bytes]]:
        """Every note as (owner, type, description)."""
        for segment in self.of_kind(PT_NOTE):
            position, end = segment.offset, min(segment.offset + segment.size, len(self.data) - 12)
            while position < end:
                owner, length, kind = struct.unpack_from("<III", self.data, position)
                name = position + 12
                text = name + (owner + 3) // 4 * 4
                yield self.data[name : name + owner].rstrip(b"\0"), kind, self.data[text : text + length]
                position = text + (length + 3) // 4 * 4

    def section(self, name: str) -> bytes:
        """The content of the section NAME; empty when there is none."""
        (table,) = struct.unpack_from("<Q", self.data, 40)
        size, count, names = struct.unpack_from("<HHH", self.data, 58)
        headers = [struct.unpack_from("<IIQQQQ", self.data, table + index * size) for index in range(count)]
        for key, _, _, _, offset, length in headers:
            if self._string(headers[names][4] + key) == name:
                return self.data[offset : offset + length]
        return b""

    def dynamic(self) -> Dynamic:
        """The interpreter, the libraries needed and the directories to look in; empty for a static binary."""
        interpreter = [self._bytes(segment).rstrip(b"\0").decode() for segment in self.of_kind(PT_INTERP)]
        entries = [entry for segment in self.of_kind(PT_DYNAMIC) for entry in self._entries(segment)]
        tables = [value for tag, value in entries if tag == DT_STRTAB]
        if not tables:
            return Dynamic(interpreter[0] if interpreter else None)
        strings = self._file_offset(tables[0])
        needed = tuple(self._string(strings + value) for tag, value in entries if tag == DT_NEEDED)
        paths = [self._string(strings + value) for tag, value in entries if tag in (DT_RPATH, DT_RUNPATH)]
        search = tuple(part for path in paths for part in path.split(":") if part)
        return Dynamic(interpreter[0] if interpreter else None, needed, search)

    def _bytes(self, segment: Segment) -> bytes:
        return self.data[segment.offset : segment.offset + segment.size]

    def _entries(self, segment: Segment) -> Iterator[tuple[int, int]]:
        data = self._bytes(segment)
        yield from struct.iter_unpack("<QQ", data[: len(data) // 16 * 16])

    def _file_offset(self, address: int) -> int:
        for segment in self.of_kind(PT_LOAD):
            if segment.address <= address < segment.address + segment.size:
                return segment.offset + address - segment.address
        raise NotELF(f"the address {address:#x} is in no segment")

    def _string(self, offset: int) -> str:
        return self.data[offset : self.data.index(b"\0", offset)].decode()
