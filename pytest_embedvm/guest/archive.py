"""A directory as one file, so that names, modes and links cross in one piece."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from pytest_embedvm.guest.errors import GuestFileError

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: What every tar reads, busybox's too.
_FORMAT: Final = tarfile.GNU_FORMAT


def pack(directory: Path, sink: IO[bytes]) -> None:
    """Write what DIRECTORY holds to SINK; the names in it begin at DIRECTORY, and all is root's.

    :raise OSError: when something cannot be read.
    """

    def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        return member

    with tarfile.open(fileobj=sink, mode="w", format=_FORMAT) as tar:
        tar.add(directory, arcname=".", filter=owned_by_root)


def unpack(source: IO[bytes], directory: Path) -> None:
    """Write the files, directories and links in SOURCE into DIRECTORY, which is made; modes are kept, owners not.

    Nothing outside DIRECTORY is touched, whatever SOURCE says: the guest wrote it.

    :raise GuestFileError: when a name in it leads outside, or it is no archive.
    :raise OSError: when something cannot be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            members = [(member, _place(member.name, directory)) for member in tar]
            for member, place in members:
                _unpack_one(tar, member, place, directory)
            # Links after all that is written through paths, modes of directories after all that is written in them.
            for member, place in members:
                if member.issym():
                    place.unlink(missing_ok=True)
                    place.symlink_to(member.linkname)
            for member, place in reversed(members):
                if member.isdir():
                    place.chmod(member.mode & 0o7777)
    except tarfile.TarError as error:
        raise GuestFileError(str(directory), f"what the guest's tar wrote is no archive: {error}") from error


def _place(name: str, directory: Path) -> Path:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or ".." in parts:
        raise GuestFileError(name, "the guest's archive has a name that leads outside the directory")
    return directory.joinpath(*parts)


def _unpack_one(tar: tarfile.TarFile, member: tarfile.TarInfo, place: Path, directory: Path) -> None:
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
    elif member.isfile():
        content = tar.extractfile(member)
        place.unlink(missing_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, member.mode & 0o700)
        with os.fdopen(descriptor, "wb") as file:
            if content is not None:
                shutil.copyfileobj(content, file)
            os.fchmod(file.fileno(), member.mode & 0o7777)
    elif member.islnk():
        place.unlink(missing_ok=True)
        os.link(_place(member.linkname, directory), place, follow_symlinks=False)
