"""Serial and parallel ports."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices.parallel import Parallel
from pytest_embedvm.domain.devices.serial import Serial
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError
from tests.domain.describing import completed, of_kind, options, written


@pytest.mark.parametrize(
    ("target", "model", "device"),
    [
        ("", "isa-serial", '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'),
        (
            "<target type='usb-serial'/>",
            "usb-serial",
            '{"driver":"usb-serial","chardev":"charserial0","id":"serial0","bus":"usb.0","port":"1"}',
        ),
        (
            "<target type='isa-debug'/><address type='isa' iobase='0x402'/>",
            "isa-debugcon",
            '{"driver":"isa-debugcon","chardev":"charserial0","id":"serial0","iobase":1026}',
        ),
        (
            "<target type='isa-serial' port='1'/><address type='isa' iobase='0x3e8' irq='0x4'/>",
            "isa-serial",
            '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":1,"iobase":1000,"irq":4}',
        ),
    ],
)
def test_types(target: str, model: str, device: str) -> None:
    domain = completed(f"<serial type='null'>{target}</serial>")
    assert [serial.model for serial in of_kind(domain, Serial)] == [model]
    assert device in options(domain, "-device")


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ((None, None), (0, 1)),
        ((0, None, None), (0, 1, 2)),
        ((2, None, 2), (2, 3, 2)),
        ((3, None), (3, 4)),
        ((None, 5), (6, 5)),
    ],
)
def test_ports_come_after_the_highest(given: tuple[int | None, ...], filled: tuple[int, ...]) -> None:
    xml = "".join("<serial/>" if port is None else f"<serial><target port='{port}'/></serial>" for port in given)
    assert tuple(serial.port for serial in of_kind(completed(xml), Serial)) == filled


def test_parallel_ports() -> None:
    domain = completed(
        "<parallel type='dev'><source path='/dev/p'/><target port='1'/></parallel><parallel type='null'/>"
    )
    assert [port.port for port in of_kind(domain, Parallel)] == [1, 2]
    assert options(domain, "-chardev") == ["parallel,id=charparallel0,path=/dev/p", "null,id=charparallel1"]
    assert written(domain, "parallel") == [
        "<parallel type='dev'><source path='/dev/p'/><target port='1'/></parallel>",
        "<parallel type='null'><target port='2'/></parallel>",
    ]


QEMU, DOMAIN = ErrorDomain.QEMU, ErrorDomain.DOMAIN
WRONG_BOARD = (
    "Serial device with target type '{}' and target model '{}' not compatible with guest architecture or machine type"
)


@pytest.mark.parametrize(
    ("target", "error", "origin", "sentence"),
    [
        ("<target type='zz'/>", ConfigUnsupported, DOMAIN, "unknown target type 'zz' specified for character device"),
        (
            "<target><model name='zz'/></target>",
            ConfigUnsupported, DOMAIN, "unknown target model 'zz' specified for character device",
        ),
        ("<target port='x'/>", XMLError, DOMAIN, "Invalid port number: x"),
        (
            "<target><model name='pci-serial'/></target>",
            ConfigUnsupported, QEMU, "Target model 'pci-serial' requires target type 'pci-serial'",
        ),
        (
            "<target type='pci-serial'/><address type='isa' iobase='0x3e8'/>",
            ConfigUnsupported, QEMU, "Target type 'pci-serial' requires address type 'pci'",
        ),
        (
            "<address type='usb' bus='0' port='1'/>",
            ConfigUnsupported, QEMU, "Target type 'isa-serial' requires address type 'isa'",
        ),
        (
            "<target type='spapr-vio-serial'/>",
            ConfigUnsupported, QEMU, WRONG_BOARD.format("spapr-vio-serial", "spapr-vty"),
        ),
        ("<target type='sclp-serial'/>", ConfigUnsupported, QEMU, WRONG_BOARD.format("sclp-serial", "sclpconsole")),
        ("<target type='system-serial'/>", ConfigUnsupported, QEMU, WRONG_BOARD.format("system-serial", "none")),
    ],
)  # fmt: skip
def test_refuses_in_libvirts_words(target: str, error: type[EmbedError], origin: ErrorDomain, sentence: str) -> None:
    with pytest.raises(error) as caught:
        completed(f"<serial type='pty'>{target}</serial>")
    assert (caught.value.origin, caught.value.detail) == (origin, sentence)


@pytest.mark.parametrize("tag", ["serial", "parallel", "console"])
def test_spice_has_a_virtio_port_only(tag: str) -> None:
    with pytest.raises(ConfigUnsupported, match="spicevmc device type only supports virtio"):
        completed(f"<{tag} type='spicevmc'/>")
