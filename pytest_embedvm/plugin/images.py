"""`embedvm_images`: disk images by name, each prepared once for all workers and all runs."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import shutil
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, overload

import pytest

from pytest_embedvm.files import HALF, PRIVATE_DIRECTORY, make_private_directory
from pytest_embedvm.guest.image.lock import locked
from pytest_embedvm.guest.image.prune import hold_directory, remove_unheld
from pytest_embedvm.plugin.preparing import Preparation
from pytest_embedvm.plugin.settings import SETTINGS
from pytest_embedvm.qemu.cache import default_cache_dir

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: Another worker may be running an installer.
LOCK_TIMEOUT_S: Final = 3600.0

#: What a key is made of has changed when this has.
VERSION: Final = 1
READ_ONLY: Final = 0o400
#: How many days an image stays that nobody uses.
KEPT_DAYS: Final = 30

_IMAGE: Final = "disk"
_MANIFEST: Final = "image.json"

#: Makes an image at `build.image`.
Prepare: TypeAlias = "Callable[[Preparation], object]"
PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class _Recipe:
    prepare: Prepare
    inputs: tuple[PathLike, ...]
    version: str


class Images(Mapping[str, Path]):
    """Names of disk images, and what each is made by. `images["name"]` is its file, which is prepared if it must be."""

    def __init__(self, config: pytest.Config, folder: Path) -> None:
        """:param folder: of all workers together, for a cache that cannot be written."""
        self._settings = config.stash[SETTINGS]
        self._folder = folder
        self._known: dict[str, _Recipe | Path] = {}

    @classmethod
    def of(cls, given: Mapping[str, Any], config: pytest.Config, folder: Path) -> Images:
        """GIVEN itself, or where it is another mapping one with its names: to paths, or to functions that prepare."""
        if isinstance(given, Images):
            return given
        images = cls(config, folder)
        for name, image in given.items():
            images.register(name, image)
        return images

    @overload
    def register(
        self, name: str, *, inputs: Iterable[PathLike] = (), version: str = ""
    ) -> Callable[[Prepare], Prepare]: ...

    @overload
    def register(
        self, name: str, image: Prepare | PathLike, *, inputs: Iterable[PathLike] = (), version: str = ""
    ) -> Prepare | PathLike: ...

    def register(
        self,
        name: str,
        image: Prepare | PathLike | None = None,
        *,
        inputs: Iterable[PathLike] = (),
        version: str = "",
    ) -> object:
        """Let `image=NAME` be IMAGE: a file, or a function that makes one. Without IMAGE it decorates that function.

        The function is called when the image is first wanted, by one worker while the others wait. What it made is kept
        for later runs too, until its source, INPUTS or VERSION change.

        :param inputs: files and directories whose contents it uses; from pytest's rootdir on where they are relative.
        :param version: whatever else it depends on.
        :raise ValueError: when NAME is taken.
        """
        if image is None:

            def decorate(prepare: Prepare) -> Prepare:
                self.register(name, prepare, inputs=inputs, version=version)
                return prepare

            return decorate
        if name in self._known:
            raise ValueError(f"embedvm_images: the name {name!r} is registered already")
        if callable(image):
            self._known[name] = _Recipe(image, tuple(inputs), version)
        else:
            self._known[name] = self._settings.rootpath / Path(image).expanduser()
        return image

    def __getitem__(self, name: str) -> Path:
        """The file of the image NAME, not to be written; prepared now unless it is there.

        :raise KeyError: when nothing is registered under NAME.
        :raise OperationTimeout: when another process has been preparing it for an hour.
        :raise TypeError: when the source of its function cannot be found, so that a change would go unnoticed.
        """
        known = self._known[name]
        return known if isinstance(known, Path) else self._prepared(name, known)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _prepared(self, name: str, recipe: _Recipe) -> Path:
        directory = self._writable(default_cache_dir() / "images") / self._key(recipe)
        if not _take(directory):
            lock = directory.with_name(f"{directory.name}.lock")
            with locked(lock, f"preparing the image '{name}'", LOCK_TIMEOUT_S):
                if not _take(directory):
                    self._prepare(name, recipe, directory)
                    _take(directory)
                    _prune(directory.parent)
        return directory / _IMAGE

    def _key(self, recipe: _Recipe) -> str:
        """A hash of all that is known of how the image is made."""
        digest = hashlib.sha256(repr((VERSION, _source(recipe.prepare), recipe.version)).encode())
        for path in recipe.inputs:
            for piece in _contents(self._settings.rootpath / Path(path).expanduser()):
                digest.update(piece)
        return digest.hexdigest()[:16]

    def _prepare(self, name: str, recipe: _Recipe, directory: Path) -> None:
        """Make the image and publish it: whole, or not at all. Under its lock."""
        for half in directory.parent.glob(f"{HALF}{directory.name}-*"):
            shutil.rmtree(half, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)
        new = Path(tempfile.mkdtemp(prefix=f"{HALF}{directory.name}-", dir=directory.parent))
        try:
            preparation = Preparation(name, new / _IMAGE, self._settings)
            with preparation:
                recipe.prepare(preparation)
            preparation.require_image()
            _seal(new, name)
            new.rename(directory)
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _writable(self, folder: Path) -> Path:
        try:
            make_private_directory(folder)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError as error:
            warnings.warn(
                f"the cache {folder} cannot be written ({error.strerror}): images are prepared for this run only",
                stacklevel=4,
            )
            return make_private_directory(self._folder)


def _source(prepare: Prepare) -> str:
    function = inspect.unwrap(prepare)
    try:
        return textwrap.dedent(inspect.getsource(function if inspect.isroutine(function) else type(function)))
    except (OSError, TypeError) as error:
        raise TypeError(f"embedvm_images: {prepare!r} has no source that could be seen to change: {error}") from None


def _contents(path: Path) -> Iterator[bytes]:
    """What tells PATH's content from another: names and bytes, in order; each with its length before it."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        name = os.fsencode(file.relative_to(path))
        kind: Literal[b"d", b"f"] = b"d" if file.is_dir() else b"f"
        yield b"%b %d %b " % (kind, len(name), name)
        if kind == b"f":
            with file.open("rb") as opened:
                yield hashlib.file_digest(opened, "sha256").digest()


def _seal(directory: Path, name: str) -> None:
    """Make the image read-only, on the disk, and note what it looks like."""
    image = directory / _IMAGE
    with image.open("rb") as file:
        os.fsync(file.fileno())
    image.chmod(READ_ONLY)
    (directory / _MANIFEST).write_text(json.dumps({"name": name, **_looks(image)}))
    directory.chmod(PRIVATE_DIRECTORY)


def _looks(image: Path) -> dict[str, int]:
    status = image.stat()
    return {"size": status.st_size, "mtime": status.st_mtime_ns}


def _take(directory: Path) -> bool:
    """Hold the image in DIRECTORY until this process ends; False when it is not there, or not as it was made."""
    if not hold_directory(directory):
        return False
    try:
        noted = cast("dict[str, Any]", json.loads((directory / _MANIFEST).read_bytes()))
        looks = _looks(directory / _IMAGE)
        return all(noted.get(key) == value for key, value in looks.items())
    except (OSError, ValueError):
        return False


def _prune(folder: Path) -> None:
    """Remove what nobody has used for long, and what killed processes had half made of it."""
    before = time.time() - KEPT_DAYS * 86400
    for path in folder.iterdir():
        with suppress(OSError):
            if path.is_dir() and path.stat().st_mtime < before:
                remove_unheld(path)
