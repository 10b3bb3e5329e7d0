"""What goes where in the guest's root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.guest.image.initramfs import Archive
from pytest_embedvm.guest.image.modules import Modules
from pytest_embedvm.guest.image.native import programs
from pytest_embedvm.guest.image.programs import Program

#: The guest's own scripts and tables, as they lie in its root; a file that begins as a script may be run.
ROOT: Final = Path(__file__).parent / "root"

DIRECTORIES: Final = ("dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var")

# /sbin is made by /init, see there.
LINKS: Final = {
    "usr/bin": "../bin", "usr/sbin": "../bin", "usr/lib": "../lib", "usr/lib64": "../lib64",
    "var/run": "../run", "var/tmp": "../tmp", "etc/mtab": "../proc/self/mounts",
}  # fmt: skip

#: busybox asks the terminal where its cursor is, at each prompt, and a transcript shows the question.
CURSOR_QUESTION: Final = b"\x1b[6n\0"


def assemble(busybox: Program, names: list[str], agent: Program, release: str, modules: Modules, *, arch: str) -> bytes:
    """The root of a guest of ARCH as a cpio archive; NAMES are busybox's commands."""
    archive = Archive()
    for path in DIRECTORIES:
        archive.directory(path)
    for path, target in LINKS.items():
        archive.link(path, target)
    archive.character_device("dev/console", 5, 1)
    archive.character_device("dev/null", 1, 3, 0o666)
    _add_programs(archive, busybox, names, agent)
    for path, data in modules.files.items():
        archive.file(f"lib/modules/{release}/{path}", data)
    for path, data in programs(arch):
        archive.file(path, data, 0o755)
    for source in scripts():
        data = source.read_bytes()
        archive.file(str(source.relative_to(ROOT)), data, 0o755 if data.startswith(b"#!") else 0o644)
    return archive.to_bytes()


def scripts() -> Iterator[Path]:
    """The files of ROOT, in order."""
    return (path for path in sorted(ROOT.rglob("*")) if path.is_file())


def _add_programs(archive: Archive, busybox: Program, names: list[str], agent: Program) -> None:
    silent = busybox.path.read_bytes().replace(CURSOR_QUESTION, bytes(len(CURSOR_QUESTION)))
    archive.file("bin/busybox", silent, 0o755)
    for name in names:
        if name != "busybox":
            archive.link(f"bin/{name}", "busybox")
    archive.file("bin/qemu-ga", agent.path.read_bytes(), 0o755)
    for program in (busybox, agent):
        directory = _library_directory(program)
        for name, path in program.libraries.items():
            archive.file(name if name.startswith("/") else f"{directory}/{name}", path.read_bytes(), 0o755)


def _library_directory(program: Program) -> str:
    """Where this host keeps its C library: the loader looks there without being told. All others join it."""
    libc = next((path for name, path in program.libraries.items() if name.startswith("libc.so")), Path("/lib/libc.so"))
    parts = libc.parent.parts
    start = next(index for index, part in enumerate(parts) if part in ("lib", "lib64"))
    return "/".join(parts[start:])
