"""A guest of a hundred bytes that can be cloned, and templates of it."""

from __future__ import annotations

from pathlib import Path

from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.templates.freezing import begin, freeze
from pytest_embedvm.driver.templates.template import Template
from tests.driver import tiny

DISK = (
    """<disk type='file'><driver name='qemu' type='raw'/><source file='{}'/><target dev='vda' bus='virtio'/></disk>"""
)
CARD = """<interface type='network'><mac address='52:54:00:00:00:01'/><source network='default'/>
<model type='virtio'/></interface>"""


def tiny_xml(directory: Path, name: str = "a", *, devices: str = CARD, extra: str = "", number: int = 1) -> str:
    """The domain that is made a template; its serial port is one of its own."""
    return tiny.xml(directory, name, devices=devices, extra=extra, serial="<serial type='pty'/>", number=number)


def with_disk(directory: Path, devices: str = "") -> str:
    """The same, with a disk of 1 MiB."""
    directory.mkdir(parents=True, exist_ok=True)
    image = directory / "disk.raw"
    image.write_bytes(b"as it was" + bytes((1 << 20) - 9))
    return tiny_xml(directory, devices=CARD + DISK.format(image) + devices)


async def made(driver: Driver, folder: Path, xml: str) -> Template:
    """The template in FOLDER of the domain XML, which ran."""
    return await freeze(await begin(driver, None, xml, folder), folder)
