"""The port of a VNC server that QEMU chose itself: known only once it listens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pytest_embedvm.domain.devices.graphics import Graphics
from pytest_embedvm.domain.model import Completed


def awaits_vnc_port(domain: Completed) -> bool:
    """Whether DOMAIN has a VNC server that `learn_vnc_port()` has to be told of."""
    return any(graphics.autoport for graphics in _graphics(domain))


def learn_vnc_port(domain: Completed, answer: Mapping[str, Any]) -> None:
    """Fill in DOMAIN what QEMU answers to query-vnc."""
    for graphics in _graphics(domain):
        if graphics.autoport:
            graphics.port = int(answer["service"])


def _graphics(domain: Completed) -> list[Graphics]:
    return [device for device in domain.devices.all if isinstance(device, Graphics)]
