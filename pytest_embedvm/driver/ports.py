"""A machine's character devices.

They are read off the parts QEMU is started with, so no kind of device has to be known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_embedvm.qemu.parts import Descriptor, DevicePart, KeyvalPart, Listen, Part


@dataclass(frozen=True)
class Port:
    """A device with a character device behind it. `alias` is the device's, `name` a virtio port's."""

    alias: str
    chardev: str
    backend: str
    name: str | None
    #: Where QEMU listens; None if the backend is no socket, or connects itself.
    socket: Path | None
    log: Path | None


def ports(parts: Iterable[Part]) -> dict[str, Port]:
    """The ports among PARTS, by alias, in the order of the command line."""
    parts = tuple(parts)
    backends = {p.props.get("id"): p for p in parts if isinstance(p, KeyvalPart) and p.option == "-chardev"}
    devices = (p.props for p in parts if isinstance(p, DevicePart) and p.props.get("chardev") in backends)
    found = (_port(props, backends[props["chardev"]]) for props in devices)
    return {port.alias: port for port in found}


def _port(device: Mapping[str, object], backend: KeyvalPart) -> Port:
    listens = (d.opens.path for d in backend.descriptors if isinstance(d.opens, Listen))
    socket, log, name = next(listens, None), backend.props.get("logfile"), device.get("name")
    return Port(
        alias=str(device.get("id", device["chardev"])),
        chardev=str(device["chardev"]),
        backend=backend.head,
        name=None if name is None else str(name),
        socket=Path(socket) if socket else None,
        log=None if log is None or isinstance(log, Descriptor) else Path(str(log)),
    )
