"""What a built guest was made of, so that the next call need only look whether that is still so."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.files import make_private_directory, set_aside, write_atomically
from pytest_embedvm.logs import HOST

#: What reading something else than a manifest raises.
_DAMAGED: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class GuestImage:
    """The built-in guest as QEMU takes it: `-kernel`, `-initrd`, `-append`.

    `kernel` is a vmlinux with a PVH entry, or a bzImage where that could not be had; `packed_kernel` is the same kernel
    as it came, which UEFI can start, and whose signature is still there. `release` is its `uname -r`,
    `arch` QEMU's name of the architecture. `notes` says in sentences what this guest lacks and why.
    """

    kernel: Path
    packed_kernel: Path
    initrd: Path
    cmdline: str
    release: str
    arch: str
    notes: tuple[str, ...]


def read_manifest(cache_dir: Path, name: str) -> GuestImage | None:
    """The image NAME in CACHE_DIR; None when it is not there, cannot be read, or is made of what has changed since."""
    try:
        manifest = json.loads(_path(cache_dir, name).read_bytes())
        if any(_identity(Path(path)) != known for path, known in manifest["files"].items()):
            return None
        return _image(manifest["image"])
    except (OSError, *_DAMAGED):
        return None


def set_damaged_aside(cache_dir: Path, name: str) -> None:
    """Rename the manifest NAME in CACHE_DIR, and report it, if it is none. Only for who has the lock."""
    path = _path(cache_dir, name)
    try:
        manifest = json.loads(path.read_bytes())
        _image(manifest["image"])
        dict(manifest["files"])
    except FileNotFoundError:
        return
    except (OSError, *_DAMAGED) as error:
        HOST.warning(
            "%s cannot be read: %r; it is kept as %s, and the guest is built anew", path, error, set_aside(path)
        )


def write_manifest(cache_dir: Path, name: str, image: GuestImage, sources: list[Path]) -> None:
    """Record IMAGE under NAME with the identity of SOURCES and of the image's own files.

    :raise OSError: when the cache cannot be written, or a file is gone.
    """
    files = {str(path): _identity(path) for path in [*sources, image.kernel, image.initrd]}
    text = json.dumps({"image": asdict(image), "files": files}, default=str, indent=1)
    write_atomically(make_private_directory(_path(cache_dir, name).parent) / f"{name}.json", text.encode())


def _path(cache_dir: Path, name: str) -> Path:
    return cache_dir / "guest" / f"{name}.json"


def _identity(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_ino, status.st_size, status.st_mtime_ns]


def _image(fields: dict[str, Any]) -> GuestImage:
    return GuestImage(
        kernel=Path(fields["kernel"]),
        packed_kernel=Path(fields["packed_kernel"]),
        initrd=Path(fields["initrd"]),
        cmdline=str(fields["cmdline"]),
        release=str(fields["release"]),
        arch=str(fields["arch"]),
        notes=tuple(map(str, fields["notes"])),
    )
