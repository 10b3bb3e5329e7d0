from __future__ import annotations

import pytest

from pytest_embedvm.domain.addresses.shapes import UsbAddress
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLError
from tests.domain.machines import completed

TABLET = "<input type='tablet' bus='usb'/>"


def tablet(address: str) -> str:
    return f"<input type='tablet' bus='usb'><address type='usb' {address}/></input>"


def ports(devices: str, machine: str = "q35") -> list[str]:
    found = (device.address for device in completed(devices, machine).devices.all if device.bus == "usb")
    return [f"{a.bus}:{a.port}" for a in found if isinstance(a, UsbAddress)]


def test_the_first_free_port() -> None:
    assert ports(TABLET * 2 + tablet("bus='0' port='1'")) == ["0:2", "0:3", "0:1"]


def test_hubs_where_ports_run_out() -> None:
    # libvirt lists hubs after inputs
    assert ports(TABLET * 6, "pc") == ["0:2", "0:1.1", "0:1.2", "0:1.3", "0:1.4", "0:1.5", "0:1"]


def test_as_many_hubs_as_it_takes() -> None:
    assert ports(TABLET * 20)[20:] == ["0:1", "0:2", "0:3"]


def test_a_bus_without_a_port() -> None:
    second = "<controller type='usb' index='0' model='qemu-xhci'/><controller type='usb' index='1' model='qemu-xhci'/>"
    assert ports(second + tablet("bus='1'")) == ["1:1"]


@pytest.mark.parametrize(
    ("devices", "error", "sentence"),
    [
        (tablet("bus='0' port='1'") * 2, XMLError, "Duplicate USB address bus 0 port 1"),
        (tablet("bus='0' port='9'"), XMLError, "requested USB port 9 not present on USB bus 0"),
        (tablet("bus='9'"), XMLError, "USB bus 9 requested but no controller with that index is present"),
        (tablet("bus='9' port='1'"), XMLError, "Missing USB bus 9"),
        (tablet("bus='0' port='3.2'"), XMLError, "there is no hub at port 3 in USB address bus: 0 port: 3.2"),
        (tablet("bus='0' port='9.2'"), XMLError, "port 9 out of range in USB address bus: 0 port: 9.2"),
        (
            "<hub type='usb'><address type='usb' bus='0' port='3'/></hub>" * 2,
            XMLError,
            "Duplicate USB hub on bus 0 port 3",
        ),
        (
            "<controller type='usb' model='none'/><hub type='usb'/>",
            ConfigUnsupported,
            "USB is disabled for this domain, but USB devices are present in the domain XML",
        ),
        ("<hub type='x'/>", ConfigUnsupported, "unknown hub device type 'x'"),
    ],
)
def test_what_cannot_be(devices: str, error: type[EmbedError], sentence: str) -> None:
    with pytest.raises(error) as caught:
        completed(devices)
    assert caught.value.detail == sentence
