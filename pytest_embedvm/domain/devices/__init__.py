"""The kinds of device, one file each; the order is libvirt's order of writing them."""

from __future__ import annotations

from typing import Final

from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.devices.channel import Channel
from pytest_embedvm.domain.devices.console import Console
from pytest_embedvm.domain.devices.controller import Controller
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.domain.devices.hub import Hub
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.domain.devices.parallel import Parallel
from pytest_embedvm.domain.devices.rng import Rng
from pytest_embedvm.domain.devices.serial import Serial

#: Element name to kind. A new kind is one file, this one line, and a golden case.
KINDS: Final[dict[str, type[Device]]] = {
    "disk": Disk,
    "controller": Controller,
    "interface": Interface,
    "serial": Serial,
    "parallel": Parallel,
    "console": Console,
    "channel": Channel,
    "hub": Hub,
    "rng": Rng,
}
