"""What of a domain can be opened from the host: consoles and ports; and what QEMU says of them once it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pytest_embedvm.domain.backends.chardev import chardev_id
from pytest_embedvm.domain.devices._character import CharacterDevice
from pytest_embedvm.domain.model import Completed

#: What query-chardev puts before the path of a pty.
_PTY: Final = "pty:"


@dataclass(frozen=True)
class Console:
    """A console of a domain.

    `type` is that of its `<source>`: a `unix` one with `listens` takes connections at `path`, a `pty` is opened at
    `path`, which is None until the domain runs; none of the others can be opened by its alias.
    """

    alias: str
    type: str
    path: str | None
    listens: bool
    #: A channel's, in the guest.
    name: str | None


def consoles(domain: Completed) -> list[Console]:
    """What openConsole() can name, by alias; the first is the one it takes when nothing is named."""
    # libvirt: qemuDomainOpenConsole looks through consoles, serial ports, parallel ports
    devices = [d for d in domain.devices.all if isinstance(d, CharacterDevice) and d.console_turn is not None]
    devices.sort(key=lambda device: device.console_turn or 0)
    found: dict[str, Console] = {}
    for device in devices:
        found.setdefault(device.id, _console(device))
    return list(found.values())


def channels(domain: Completed) -> list[Console]:
    """What openChannel() can name, by alias or name; the first is the one it takes when nothing is named."""
    devices = (d for d in domain.devices.all if isinstance(d, CharacterDevice) and d.is_channel)
    return [_console(device) for device in devices]


def _console(device: CharacterDevice) -> Console:
    chardev = device.chardev
    return Console(device.id, chardev.type, chardev.path, any(s.mode == "bind" for s in chardev.sources), device.name)


def learn(domain: Completed, chardevs: Iterable[Mapping[str, Any]]) -> None:
    """Note in DOMAIN what QEMU's query-chardev answers: where the ptys are, which channels the guest has open."""
    devices = [device for device in domain.devices.all if isinstance(device, CharacterDevice)]
    for answer in chardevs:
        for device in (d for d in devices if chardev_id(d.id) == answer["label"]):
            if answer["filename"].startswith(_PTY):
                device.learn_pty(answer["filename"].removeprefix(_PTY))
            device.learn_state(connected=answer["frontend-open"])


def learn_state(domain: Completed, alias: str, *, connected: bool) -> bool:
    """Note that the guest has opened or closed the port ALIAS (VSERPORT_CHANGE); whether that is news."""
    return any(
        device.learn_state(connected=connected)
        for device in domain.devices.all
        if isinstance(device, CharacterDevice) and device.id == alias
    )
