"""What tells a file's content from another's, looked at once as long as the file is as it was."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO, Final

from pytest_embedvm.embed import default_cache_dir
from pytest_embedvm.errors import InternalError
from pytest_embedvm.files import make_private_directory, write_atomically
from pytest_embedvm.qemu.image import MAGIC, backing, backing_in

#: To be raised when the same content gets another digest.
VERSION: Final = 1

#: Smaller files are read sooner than what is known of them is found.
NOTED_BYTES: Final = 1 << 20
#: A file that was written so short a time ago may be written again without looking different.
SETTLED_NS: Final = 2_000_000_000

_NOTES: Final = "hashes"
_BLOCK: Final = 1 << 18
_ZEROS: Final = bytes(_BLOCK)
#: Where a qcow2 header says where its backing file's name is, and how long that is.
_BACKING: Final = slice(8, 20)

_Looks = tuple[int, ...]

_known: dict[Path, tuple[_Looks, str]] = {}


def image_digest(path: Path) -> str:
    """The content of the image at PATH, and of all that it stands on; what they are called does not count.

    :raise OSError: when one of them cannot be read.
    """
    digest = hashlib.sha256()
    seen: set[Path] = set()
    while path not in seen:
        seen.add(path)
        digest.update(file_digest(path).encode())
        below = backing_file(path)
        if below is None:
            break
        path = below
    return digest.hexdigest()


def backing_file(path: Path) -> Path | None:
    """The file that the image at PATH stands on; None where that is nothing, or no file.

    :raise OSError: when PATH cannot be read.
    """
    try:
        below = backing(path)
    except InternalError:  # it only looks like qcow2
        return None
    if below is None:
        return None
    file = path.parent / below.name
    return file if file.exists() else None


def tree_digests(path: Path) -> Iterator[bytes]:
    """What tells PATH's content from another: names and bytes, in order; each name with its length before it.

    :raise OSError: when a file in it cannot be read.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = os.fsencode(file.relative_to(path))
        yield b"%b %d %b " % (b"d" if file.is_dir() else b"f", len(name), name)
        if not file.is_dir():
            yield file_digest(file).encode()


def file_digest(path: Path) -> str:
    """The content of the file or block device PATH, without what it stands on.

    Holes count as the zeros they are read as. Large files are looked at again only when they look different: what they
    held is noted in the cache.

    :raise OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        looks = _looks(file)
        known = _known.get(path)
        if known is None or known[0] != looks:
            known = _noted(path, looks)
        if known is not None and known[0] == looks:
            _known[path] = known
            return known[1]
        found = _digest(file)
        if _is_settled(file, looks):
            _known[path] = looks, found
            _note(path, looks, found)
        return found


def _looks(file: BinaryIO) -> _Looks:
    status = os.fstat(file.fileno())
    return VERSION, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _is_settled(file: BinaryIO, looks: _Looks) -> bool:
    """Whether FILE still looks as it did, and would look different were it written from now on."""
    regular = S_ISREG(os.fstat(file.fileno()).st_mode)
    return regular and looks == _looks(file) and time.time_ns() - max(looks[-2:]) > SETTLED_NS


def _digest(file: BinaryIO) -> str:
    size = file.seek(0, os.SEEK_END)
    digest = hashlib.sha256(b"%d" % size)
    for position, block in _blocks(file, size):
        digest.update(b" %d " % position)
        digest.update(block if position else _without_backing(block))
    return digest.hexdigest()


def _without_backing(head: bytes) -> bytes:
    """The first bytes of an image without the name of what it stands on."""
    try:
        below = backing_in(head, Path())
    except InternalError:
        return head
    if not head.startswith(MAGIC) or below is None:
        return head
    name = slice(*_span(head))
    blank = bytearray(head)
    blank[name] = bytes(len(blank[name]))
    blank[_BACKING] = bytes(len(blank[_BACKING]))
    return bytes(blank)


def _span(head: bytes) -> tuple[int, int]:
    start, length = int.from_bytes(head[8:16], "big"), int.from_bytes(head[16:20], "big")
    return start, start + length


def _blocks(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """The blocks of FILE that are not all zeros, by their positions."""
    position = 0
    while position < size:
        file.seek(position)
        block = file.read(_BLOCK)
        if not block:
            return
        if block == _ZEROS[: len(block)]:
            position = _next_data(file, position + len(block), size)
        else:
            yield position, block
            position += len(block)


def _next_data(file: BinaryIO, position: int, size: int) -> int:
    """The first block from POSITION on that may hold something else than zeros."""
    try:
        found = os.lseek(file.fileno(), position, os.SEEK_DATA)
    except OSError as error:
        return size if error.errno == errno.ENXIO else position
    return found - found % _BLOCK


def _note_of(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return default_cache_dir() / _NOTES / name


def _noted(path: Path, looks: _Looks) -> tuple[_Looks, str] | None:
    if looks[3] < NOTED_BYTES:
        return None
    try:
        *numbers, digest = _note_of(path).read_text("ascii").split()
        return tuple(map(int, numbers)), digest
    except (OSError, ValueError):
        return None


def _note(path: Path, looks: _Looks, digest: str) -> None:
    if looks[3] < NOTED_BYTES:
        return
    note = _note_of(path)
    with suppress(OSError):  # it is only read again
        make_private_directory(note.parent)
        write_atomically(note, " ".join([*map(str, looks), digest]).encode("ascii"), sync=False)


def forget_digests(cache_dir: Path, before: float) -> None:
    """Remove from CACHE_DIR what was noted before a time, in seconds since 1970: the file may be gone."""
    with suppress(OSError):
        for note in (cache_dir / _NOTES).iterdir():
            if note.stat().st_mtime < before:
                note.unlink(missing_ok=True)
