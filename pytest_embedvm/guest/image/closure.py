"""The shared libraries a binary needs, found as the dynamic loader finds them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.elf import ELF, NotELF

LD_SO_CONF: Final = "etc/ld.so.conf"

# glibc: the system directories of sysdeps/*, with the multiarch ones Debian adds.
DEFAULT_DIRECTORIES: Final = (
    "lib/{arch}-linux-gnu", "usr/lib/{arch}-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib",
)  # fmt: skip


class MissingLibrary(Exception):
    """A library is nowhere to be found; the text names it and who needs it."""


class Search:
    """The directories of one or more roots in which libraries are looked for, the first root first."""

    def __init__(self, arch: str, roots: tuple[Path, ...] = (Path("/"),)) -> None:
        self.roots = roots
        self.machine = arch
        self.directories = tuple(path for root in roots for path in _directories(root, arch) if path.is_dir())

    def interpreter(self, path: str) -> Path:
        """The file of the dynamic loader PATH.

        :raise MissingLibrary: when no root has it.
        """
        for root in self.roots:
            if (root / path.lstrip("/")).exists():
                return root / path.lstrip("/")
        raise MissingLibrary(f"the dynamic loader {path} is not there")

    def library(self, name: str, first: tuple[Path, ...], needed_by: Path) -> Path:
        """The file of the library NAME; FIRST are the directories the binary itself asks for.

        :raise MissingLibrary: when no directory has it.
        """
        for directory in (*first, *self.directories):
            if (directory / name).is_file():
                return directory / name
        raise MissingLibrary(f"{needed_by} needs {name}, which is not there")


def library_closure(binary: Path, search: Search) -> dict[str, Path]:
    """The loader and all libraries BINARY needs, directly or not: the path it asks for (a loader's is absolute, a
    library's a bare name) and the file. Empty for a static binary.

    :raise NotELF: when a file is no ELF.
    :raise MissingLibrary: when one is nowhere.
    :raise OSError: when a file cannot be read.
    """
    found: dict[str, Path] = {}
    ahead = [binary]
    while ahead:
        path = ahead.pop(0)
        wants = ELF(path.read_bytes()).dynamic()
        if wants.interpreter and not found:
            found[wants.interpreter] = search.interpreter(wants.interpreter)
        first = tuple(Path(entry.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", str(path.resolve().parent)))
                      for entry in wants.search)  # fmt: skip
        for name in wants.needed:
            if name not in found and not any(known.endswith(f"/{name}") for known in found):
                found[name] = search.library(name, first, path)
                ahead.append(found[name])
    return found


def _directories(root: Path, arch: str) -> Iterator[Path]:
    """In glibc's order: the configured directories (through ld.so.cache), then the built-in ones."""
    for line in _configured(root, root / LD_SO_CONF):
        yield root / line.lstrip("/")
    for pattern in DEFAULT_DIRECTORIES:
        yield root / pattern.format(arch=arch)


def _configured(root: Path, path: Path) -> Iterator[str]:
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        words = line.partition("#")[0].split()
        if words[:1] == ["include"]:
            for pattern in words[1:]:
                base = root if pattern.startswith("/") else path.parent
                for included in sorted(base.glob(pattern.lstrip("/"))):
                    yield from _configured(root, included)
        else:
            yield from words


__all__ = ["MissingLibrary", "NotELF", "Search", "library_closure"]
