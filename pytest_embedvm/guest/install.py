"""Programs of the host's, or of its packages, put into a guest with all the libraries they need."""

from __future__ import annotations

import io
import shlex
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import IO, Final

from pytest_embedvm import embed
from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.errors import NoProgram
from pytest_embedvm.guest.files import Files
from pytest_embedvm.guest.image.closure import MissingLibrary, NotELF, Search, library_closure
from pytest_embedvm.guest.image.programs import Program, find_program
from pytest_embedvm.guest.wait import Deadline

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: Where programs and their libraries go, a directory each, so that they meet none of the guest's own.
HOME: Final = PurePosixPath("/opt/embedvm")
#: Where they are called, in every guest's PATH.
CALLED: Final = PurePosixPath("/usr/local/bin")
#: An emulated guest takes 4 MB/s: packing a little is worth it, packing well is not.
_COMPRESSION: Final = 1


def install(files: Files, program: str, package: str | None, arch: str, deadline: Deadline) -> str:
    """Put PROGRAM, a path or a name, into the guest; its path there."""
    found = _found(program, package, arch)
    name = PurePosixPath(program).name
    with tempfile.TemporaryFile() as packed:
        _pack(found, name, packed)
        files.unpack(packed, "/", deadline, options="-xpzf")
    return str(CALLED / name)


def _found(program: str, package: str | None, arch: str) -> Program:
    try:
        if "/" not in program:
            return find_program(program, package or program, arch, embed.default_cache_dir())
        path = Path(program)
        return Program(path, library_closure(path, Search(arch)))
    except OperationUnsupported as error:
        raise NoProgram(error.detail) from None
    except (MissingLibrary, NotELF, OSError) as error:
        raise NoProgram(f"{program} cannot be put into the guest: {error}") from error


def _pack(program: Program, name: str, sink: IO[bytes]) -> None:
    home = HOME / name
    contents = {home / PurePosixPath(asked).name: path for asked, path in program.libraries.items()}
    contents[home / name] = program.path
    with tarfile.open(fileobj=sink, mode="w:gz", compresslevel=_COMPRESSION, format=tarfile.GNU_FORMAT) as tar:
        for place, path in contents.items():
            _add(tar, place, path.read_bytes())
        _add(tar, CALLED / name, _caller(program, home, name).encode())


def _caller(program: Program, home: PurePosixPath, name: str) -> str:
    """A script that starts it by its own loader and libraries; its children have the guest's."""
    loader = next((PurePosixPath(path).name for path in program.libraries if path.startswith("/")), None)
    words = [home / name] if loader is None else [home / loader, "--library-path", home, home / name]
    return f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n'


def _add(tar: tarfile.TarFile, place: PurePosixPath, data: bytes) -> None:
    member = tarfile.TarInfo(str(place.relative_to("/")))
    member.size, member.mode = len(data), 0o755
    tar.addfile(member, io.BytesIO(data))
