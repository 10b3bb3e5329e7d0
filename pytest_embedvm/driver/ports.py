"""A machine's character devices, as QEMU is started with them: where they listen, where they are logged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_embedvm.qemu.parts import DevicePart, KeyvalPart, Listen, Part


@dataclass(frozen=True)
class Port:
    """A device with a character device behind it. `alias` is the device's, `name` a virtio port's."""

    alias: str
    name: str | None
    #: Where QEMU listens; None if the backend is no socket, or connects itself.
    socket: Path | None
    log: Path | None


def ports(parts: Iterable[Part]) -> list[Port]:
    """The ports among PARTS, in the order of the command line."""
    parts = tuple(parts)
    backends = {p.props.get("id"): p for p in parts if isinstance(p, KeyvalPart) and p.option == "-chardev"}
    devices = (p.props for p in parts if isinstance(p, DevicePart) and p.props.get("chardev") in backends)
    return [_port(props, backends[props["chardev"]]) for props in devices]


def _port(device: Mapping[str, Any], backend: KeyvalPart) -> Port:
    listens = [Path(d.opens.path) for d in backend.descriptors if isinstance(d.opens, Listen)]
    log = backend.props.get("logfile")
    return Port(
        alias=device["id"],
        name=device.get("name"),
        socket=listens[0] if listens else None,
        log=Path(log) if isinstance(log, str) else None,
    )
