"""How QEMU is started for a guest that comes from elsewhere, on the host where that guest still runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pytest_embedvm.domain.argv import Launch
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.qemu.parts import Descriptor, Json, KeyvalPart, Listen, Part, SocketPlace, option


class Arriving:
    """What is different about such a start: whose places it must not take before the guest is here."""

    arriving: Final = True

    def __init__(self) -> None:
        self._beside: list[Listen] = []

    def adapt(self, launch: Launch) -> Launch:
        """LAUNCH, waiting for a guest instead of booting one, and beside one that has its sockets and files.

        :raise OperationFailed: when a socket that QEMU binds by itself is in use.
        """
        # First of all words: a user's <qemu:commandline> cannot swallow it.
        return dataclasses.replace(launch, parts=(option("-incoming", "defer"), *self._adapted(launch.parts)))

    def _adapted(self, parts: Iterable[Part]) -> Iterable[Part]:
        for part in parts:
            for descriptor in part.descriptors:
                if isinstance(descriptor.opens, SocketPlace) and Path(descriptor.opens.path).is_socket():
                    raise OperationFailed(
                        f"socket '{descriptor.opens.path}' is in use; give the destination another one"
                    )
            if isinstance(part, KeyvalPart) and part.option == "-chardev":
                yield dataclasses.replace(part, props=self._chardev(part))
            else:
                yield part

    def _chardev(self, part: KeyvalPart) -> dict[str, Json]:
        """The properties of a -chardev, so that neither socket nor what is in its files is lost for who has it now."""
        props = {key: self._elsewhere(value) for key, value in part.props.items()}
        if part.head == "file":
            props["append"] = True
        if "logfile" in props:
            props["logappend"] = True
        return props

    def _elsewhere(self, value: Json) -> Json:
        if not isinstance(value, Descriptor) or not isinstance(value.opens, Listen):
            return value
        path = Path(value.opens.path)
        if not path.is_socket():
            return value
        opens = Listen(value.opens.path, beside=str(path.with_name(f".{path.name}.arriving")))
        self._beside.append(opens)
        return dataclasses.replace(value, opens=opens)

    def take_places(self) -> None:
        """The guest is here: from now on its sockets are found where they belong."""
        for listen in self._beside:
            if listen.beside is not None:
                Path(listen.beside).rename(listen.path)
