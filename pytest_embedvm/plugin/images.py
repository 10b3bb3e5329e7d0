"""`embedvm_images`: disk images by name, each prepared once for all workers and all runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias, overload

import pytest

from pytest_embedvm.guest.templates.contents import tree_digests
from pytest_embedvm.guest.templates.source import source_of
from pytest_embedvm.guest.templates.store import Store
from pytest_embedvm.plugin.preparing import Preparation
from pytest_embedvm.plugin.settings import SETTINGS
from pytest_embedvm.plugin.terminal import teller
from pytest_embedvm.qemu.cache import default_cache_dir

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: What a key is made of has changed when this has.
VERSION: Final = 2
READ_ONLY: Final = 0o400

_IMAGE: Final = "disk"

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
        self._store = Store(
            default_cache_dir() / "images", what="image", limit=self._settings.cache_size, instead=folder
        )
        self._tell = teller(config)
        self._known: dict[str, _Recipe | Path] = {}
        self._given: set[str] = set()

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
        file = known if isinstance(known, Path) else self._prepared(name, known)
        self._given.add(name)
        return file

    def was_given(self, name: str) -> bool:
        """Whether a test of this process has had the image NAME, so that nothing is prepared for the next."""
        return name in self._given

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _prepared(self, name: str, recipe: _Recipe) -> Path:
        def make(folder: Path) -> None:
            self._tell(f"preparing the image '{name}'")
            preparation = Preparation(name, folder / _IMAGE, self._settings)
            with preparation:
                recipe.prepare(preparation)
            preparation.require_image()
            preparation.image.chmod(READ_ONLY)

        return self._store.get(self._key(recipe), make, title=name, progress=self._tell) / _IMAGE

    def _key(self, recipe: _Recipe) -> str:
        """A hash of all that is known of how the image is made."""
        root = self._settings.rootpath
        digest = hashlib.sha256(repr((VERSION, source_of(recipe.prepare, root), recipe.version)).encode())
        for path in recipe.inputs:
            for piece in tree_digests(root / Path(path).expanduser()):
                digest.update(piece)
        return digest.hexdigest()[:16]
