"""The kinds of device, one file each; the order is libvirt's order of writing them."""

from __future__ import annotations

from typing import Final

from pytest_embedvm.domain.devices._base import Device
from pytest_embedvm.domain.devices.audio import Audio
from pytest_embedvm.domain.devices.channel import Channel
from pytest_embedvm.domain.devices.console import Console
from pytest_embedvm.domain.devices.controller import Controller
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.domain.devices.filesystem import Filesystem
from pytest_embedvm.domain.devices.graphics import Graphics
from pytest_embedvm.domain.devices.hub import Hub
from pytest_embedvm.domain.devices.input import Input
from pytest_embedvm.domain.devices.interface import Interface
from pytest_embedvm.domain.devices.memballoon import Memballoon
from pytest_embedvm.domain.devices.panic import Panic
from pytest_embedvm.domain.devices.parallel import Parallel
from pytest_embedvm.domain.devices.rng import Rng
from pytest_embedvm.domain.devices.serial import Serial
from pytest_embedvm.domain.devices.tpm import Tpm
from pytest_embedvm.domain.devices.video import Video
from pytest_embedvm.domain.devices.vsock import Vsock
from pytest_embedvm.domain.devices.watchdog import Watchdog

#: Element name to kind. A new kind is one file, this one line, and a golden case.
KINDS: Final[dict[str, type[Device]]] = {
    "disk": Disk,
    "controller": Controller,
    "filesystem": Filesystem,
    "interface": Interface,
    "serial": Serial,
    "parallel": Parallel,
    "console": Console,
    "channel": Channel,
    "input": Input,
    "tpm": Tpm,
    "graphics": Graphics,
    "audio": Audio,
    "video": Video,
    "hub": Hub,
    "watchdog": Watchdog,
    "memballoon": Memballoon,
    "rng": Rng,
    "panic": Panic,
    "vsock": Vsock,
}
