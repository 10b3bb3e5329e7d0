"""The built-in guest, built once and shared: a kernel QEMU boots quickly, and an initramfs with the guest agent."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.files import PRIVATE_DIRECTORY, make_private_directory
from pytest_embedvm.guest.image.assemble import ROOT, assemble, scripts
from pytest_embedvm.guest.image.kernel import KernelFiles, find_kernel, kernel_variables
from pytest_embedvm.guest.image.lock import locked
from pytest_embedvm.guest.image.manifest import GuestImage, read_manifest, set_damaged_aside, write_manifest
from pytest_embedvm.guest.image.modules import Modules, choose_modules
from pytest_embedvm.guest.image.native import SOURCES
from pytest_embedvm.guest.image.programs import (
    AGENT,
    APPLETS,
    BUSYBOX,
    Program,
    applets,
    find_agent,
    find_busybox,
    which,
)
from pytest_embedvm.guest.image.prune import hold, prune
from pytest_embedvm.guest.image.vmlinux import arch_of, bootable, release_of

LOCK_TIMEOUT_S: Final = 600.0

#: cryptomgr.notests: the kernel's self-tests of its ciphers cost an eighth of the boot. noapictimer: spares the
#: calibration of a timer that an emulated machine does not need. Both measured under TCG; the log stays, it is cheap.
#: no_timer_check: on a busy host the kernel else counts too few ticks and panics ("IO-APIC + timer doesn't work!").
CMDLINES: Final = {
    "x86_64": "console=ttyS0 cryptomgr.notests noapictimer no_timer_check",
    "aarch64": "console=ttyAMA0 cryptomgr.notests",
}


def build_guest(cache_dir: Path, *, kernel: Path | None = None, modules: Path | None = None) -> GuestImage:
    """The built-in guest, from CACHE_DIR where it is there and still made of what this host has, else built.

    KERNEL and MODULES (a `/lib/modules/<release>`) override EMBEDVM_KERNEL and EMBEDVM_KERNEL_MODULES, and these
    the host's. Processes that call at the same time build once. A cache that is damaged is built anew; one that
    cannot be written is replaced, with one warning, by a temporary directory that goes with this process.

    :raise OperationUnsupported: when the host has no kernel, busybox or guest agent and none can be fetched; or
        the kernel's modules cannot be read.
    :raise OperationTimeout: when another process has been building for 600 s.
    """
    cache_dir = cache_dir.absolute()
    kernel, modules = kernel_variables(kernel, modules)
    name = _request(kernel, modules)
    image = read_manifest(cache_dir, name)
    if image is not None and hold(image):
        return image
    cache_dir = _writable(cache_dir)
    with locked(cache_dir / "guest.lock", "building the guest", LOCK_TIMEOUT_S):
        image = read_manifest(cache_dir, name)
        if image is None:
            set_damaged_aside(cache_dir, name)
            image = _build(cache_dir, name, kernel, modules)
        hold(image)
        return image


def _request(*asked: Path | None) -> str:
    """A name for what was asked for, for the programs this process finds, and for this copy of the project."""
    parts = [*asked, ROOT, which(BUSYBOX[0]), which(AGENT[0])]
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()[:16]


def _writable(cache_dir: Path) -> Path:
    """CACHE_DIR if a file can be made in it, else this process's own directory."""
    try:
        make_private_directory(cache_dir)
        with tempfile.TemporaryFile(dir=cache_dir):
            return cache_dir
    except OSError as error:
        return _temporary(cache_dir, error)


_own: dict[int, Path] = {}


def _temporary(cache_dir: Path, error: OSError) -> Path:
    pid = os.getpid()
    if pid not in _own:
        _own[pid] = Path(tempfile.mkdtemp(prefix="embedvm-guest-"))
        atexit.register(_forget, pid)
        warnings.warn(
            f"the cache {cache_dir} cannot be written ({error.strerror}): "
            "the built-in guest is built for this process only",
            stacklevel=4,
        )
    return _own[pid]


def _forget(pid: int) -> None:
    """Remove the process's own directory; not in a forked child, whose it is not."""
    if pid == os.getpid() and pid in _own:
        shutil.rmtree(_own.pop(pid), ignore_errors=True)


def _build(cache_dir: Path, name: str, kernel: Path | None, modules: Path | None) -> GuestImage:
    files = find_kernel(cache_dir, kernel=kernel, modules=modules)
    data = _read(files.image)
    arch = arch_of(data) or "x86_64"
    busybox, agent = find_busybox(arch, cache_dir), find_agent(arch, cache_dir)
    names = applets(busybox)
    release = release_of(data) or (files.modules.name if files.modules else "unknown")
    chosen = _modules(files)
    boot = bootable(data)
    initrd = assemble(busybox, names, agent, release, chosen, arch=arch)
    directory = _publish(cache_dir, boot.data, initrd)
    notes = (*_notes(names, files, chosen), *([boot.note] if boot.note else []))
    image = GuestImage(directory / "kernel", files.image, directory / "initrd", CMDLINES[arch], release, arch, notes)
    write_manifest(cache_dir, name, image, _sources(files, busybox, agent, explicit=kernel is not None))
    prune(cache_dir)
    return image


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperationUnsupported(f"cannot read the kernel {path}: {error.strerror}") from error


def _modules(files: KernelFiles) -> Modules:
    if files.modules is None:
        return Modules({}, ())
    try:
        return choose_modules(files.modules)
    except OSError as error:
        raise OperationUnsupported(f"cannot read the kernel's modules: {error}") from error


def _notes(names: list[str], files: KernelFiles, chosen: Modules) -> list[str]:
    """What this guest lacks, in sentences."""
    notes = [f"a module was left out: {note}" for note in chosen.notes]
    if files.modules is None:
        notes.append(f"no modules were found for {files.image}: it has only what is built in")
    if chosen.missing:
        notes.append(f"the kernel has no {', '.join(chosen.missing)}")
    lacking = APPLETS - set(names)
    if lacking:
        notes.append(f"busybox has no {', '.join(sorted(lacking))}")
    return notes


def _publish(cache_dir: Path, kernel: bytes, initrd: bytes) -> Path:
    """The directory, named by the content, that holds both files: whole, or not there."""
    key = hashlib.sha256(hashlib.sha256(kernel).digest() + hashlib.sha256(initrd).digest()).hexdigest()[:16]
    final = cache_dir / "guest" / key
    contents = {"kernel": kernel, "initrd": initrd}
    if all(_holds(final / name, data) for name, data in contents.items()):
        return final
    make_private_directory(final.parent)
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=final.parent))
    try:
        for name, data in contents.items():
            (temporary / name).write_bytes(data)
        temporary.chmod(PRIVATE_DIRECTORY)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def _holds(path: Path, data: bytes) -> bool:
    with suppress(OSError):
        return path.stat().st_size == len(data) and path.read_bytes() == data
    return False


def _sources(files: KernelFiles, busybox: Program, agent: Program, *, explicit: bool) -> list[Path]:
    """All the image is made of. Where the host's kernel was taken, a new one beside it counts too."""
    sources = [files.image, *Path(__file__).parent.rglob("*.py"), *SOURCES.values(), *scripts()]
    if files.modules is not None:
        sources.append(files.modules / "modules.dep")
    if not explicit:
        sources += [Path("/boot"), Path("/lib/modules")]
    for program in (busybox, agent):
        sources += [program.path, *program.libraries.values()]
    return sources
