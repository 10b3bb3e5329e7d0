"""A console is the first serial port under another name, or a virtio console."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.consoles import Console, consoles, learn
from pytest_embedvm.errors import ConfigUnsupported
from tests.domain.describing import completed, options, written

SERIAL = "<target type='isa-serial' port='0'><model name='isa-serial'/></target>"
MIRROR = "<target type='serial' port='0'/>"


@pytest.mark.parametrize(
    "asked", ["<serial type='null'/>", "<console type='null'/>", "<serial type='null'/><console/>"]
)
def test_either_implies_the_other(asked: str) -> None:
    domain = completed(asked)
    assert written(domain, "serial") == [f"<serial type='null'>{SERIAL}</serial>"]
    assert written(domain, "console") == [f"<console type='null'>{MIRROR}</console>"]
    assert len(options(domain, "-chardev")) == 1


def test_the_serial_port_decides_what_is_behind_both() -> None:
    domain = completed(
        "<serial type='file'><source path='/f'/><target port='2'/><alias name='ua-s'/></serial>"
        "<console type='pty'><target type='serial' port='0'/><alias name='ua-c'/></console>"
    )
    assert written(domain, "console") == [
        "<console type='file'><source path='/f'/><target type='serial' port='2'/><alias name='ua-s'/></console>"
    ]


def test_a_console_gives_its_alias_and_port_to_the_serial_port() -> None:
    domain = completed("<console type='null'><target port='1'/><alias name='ua-c'/></console>")
    assert written(domain, "serial") == [
        "<serial type='null'><target type='isa-serial' port='1'><model name='isa-serial'/></target>"
        "<alias name='ua-c'/></serial>"
    ]


@pytest.mark.parametrize("target", ["usb-serial", "pci-serial", "isa-debug"])
def test_other_serial_ports_are_no_console_unasked(target: str) -> None:
    assert written(completed(f"<serial type='null'><target type='{target}'/></serial>"), "console") == []


def test_virtio() -> None:
    domain = completed("<console type='null'><target type='virtio'/></console>")
    assert written(domain, "console") == ["<console type='null'><target type='virtio' port='0'/></console>"]
    assert written(domain, "serial") == []
    assert '{"driver":"virtconsole","chardev":"charconsole0","id":"console0"}' in options(domain, "-device")
    assert any('"driver":"virtio-serial-pci"' in device for device in options(domain, "-device"))


def test_the_serial_port_s_console_comes_first() -> None:
    domain = completed("<serial type='null'/><console type='null'><target type='virtio'/></console>")
    assert written(domain, "console") == [
        f"<console type='null'>{MIRROR}</console>",
        "<console type='null'><target type='virtio' port='0'/></console>",
    ]
    assert [console.alias for console in consoles(domain)] == ["serial0", "console1"]


def test_what_can_be_opened() -> None:
    domain = completed(
        "<parallel type='null'/><serial type='pty'/><serial type='unix'><source mode='bind' path='/s'/></serial>"
        "<channel type='pty'><target type='virtio'/></channel>"
    )
    assert consoles(domain) == [
        Console("serial0", "pty", None, listens=False, name=None),
        Console("serial1", "unix", "/s", listens=True, name=None),
        Console("parallel0", "null", None, listens=False, name=None),
    ]


def test_a_running_domain_shows_its_terminal_twice() -> None:
    domain = completed("<serial/>")
    learn(domain, [{"label": "charserial0", "filename": "pty:/dev/pts/7", "frontend-open": True}])
    live = "<source path='/dev/pts/7'/>"
    assert written(domain, "serial", inactive=False) == [
        f"<serial type='pty'>{live}{SERIAL}<alias name='serial0'/></serial>"
    ]
    assert written(domain, "console", inactive=False) == [
        f"<console type='pty' tty='/dev/pts/7'>{live}{MIRROR}<alias name='serial0'/></console>"
    ]
    assert written(domain, "console") == [f"<console type='pty'>{MIRROR}</console>"]
    assert written(domain, "serial") == [f"<serial type='pty'>{SERIAL}</serial>"]
    assert consoles(domain)[0].path == "/dev/pts/7"


@pytest.mark.parametrize(
    ("xml", "origin", "sentence"),
    [
        ("<console/><console/>", ErrorDomain.DOMAIN, "Only the first console can be a serial port"),
        (
            "<console><target type='virtio'/></console><console><target type='serial'/></console>",
            ErrorDomain.DOMAIN, "Only the first console can be a serial port",
        ),
        (
            "<console><target type='zz'/></console>",
            ErrorDomain.DOMAIN, "unknown target type 'zz' specified for character device",
        ),
        ("<console><target type='xen'/></console>", ErrorDomain.QEMU, "unsupported console target type xen"),
        (
            "<console><target type='sclp'/></console>",
            ErrorDomain.QEMU, "sclpconsole is not supported in this QEMU binary",
        ),
    ],
)  # fmt: skip
def test_refuses_in_libvirts_words(xml: str, origin: ErrorDomain, sentence: str) -> None:
    with pytest.raises(ConfigUnsupported) as caught:
        completed(xml)
    assert (caught.value.origin, caught.value.detail) == (origin, sentence)
