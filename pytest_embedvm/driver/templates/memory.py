"""A guest's memory in a file of a template's, to be shared by the clones that only read it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Json, KeyvalPart, ObjectPart, Part, option


@dataclasses.dataclass(frozen=True)
class MemoryFile:
    """How QEMU is started so that its guest's memory is the file at `path`.

    `shared`: what the guest writes goes into the file, as a template's does; else it stays QEMU's own.
    `arriving`: the guest is not booted, but comes from a template's state.
    """

    path: str
    shared: bool
    arriving: bool

    def adapt(self, launch: Launch) -> Launch:
        """LAUNCH with its memory in the file.

        :raise ConfigUnsupported: when the machine type has no memory that could lie in a file.
        """
        parts = tuple(self._adapted(launch.parts))
        if parts == launch.parts:
            raise ConfigUnsupported("this machine type has no memory that could be in a file: it cannot be cloned")
        # First of all words: a user's <qemu:commandline> cannot swallow it.
        waiting = (option("-incoming", "defer"),) if self.arriving else ()
        return dataclasses.replace(launch, parts=(*waiting, *parts))

    def _adapted(self, parts: Iterable[Part]) -> Iterable[Part]:
        name = _memory_id(parts)
        for part in parts:
            if isinstance(part, ObjectPart) and part.props["id"] == name:
                props = {key: part.props[key] for key in ("id", "size")}
                file: dict[str, Json] = {"qom-type": "memory-backend-file", "mem-path": self.path, "share": self.shared}
                yield ObjectPart(file | props)
            else:
                yield part


def _memory_id(parts: Iterable[Part]) -> object:
    machines = (part for part in parts if isinstance(part, KeyvalPart) and part.option == "-machine")
    return next((part.props.get("memory-backend") for part in machines), None)
