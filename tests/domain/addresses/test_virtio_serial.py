from __future__ import annotations

import pytest

from pytest_embedvm.domain.addresses.shapes import VirtioSerialAddress
from pytest_embedvm.errors import XMLError
from tests.domain.machines import completed, controllers


def channel(name: str, address: str = "") -> str:
    place = f"<address type='virtio-serial' {address}/>" if address else ""
    return f"<channel type='pty'><target type='virtio' name='{name}'/>{place}</channel>"


CONSOLE = "<console type='pty'><target type='virtio'/></console>"


def ports(devices: str) -> list[str]:
    found = (d.address for d in completed(devices).devices.all if d.bus == "virtio-serial")
    return [f"{a.controller}:{a.port}" if isinstance(a, VirtioSerialAddress) else "-" for a in found]


def test_channels_start_at_port_one() -> None:
    assert ports(channel("a") + channel("b", "controller='0' port='1'")) == ["0:2", "0:1"]


def test_a_controller_alone() -> None:
    assert ports(channel("a") + channel("b", "controller='1'")) == ["0:1", "1:1"]


def test_controllers_are_added_as_channels_name_them() -> None:
    domain = completed(channel("a", "controller='2' port='1'") + CONSOLE + channel("b", "controller='1'"))
    assert [c for c in controllers(domain) if c.startswith("virtio-serial")] == [
        "virtio-serial 2", "virtio-serial 1", "virtio-serial 0",
    ]  # fmt: skip


def test_a_full_controller_is_followed_by_another() -> None:
    few = "<controller type='virtio-serial' ports='2'/>"
    assert ports(few + channel("a") + channel("b") + channel("c")) == ["0:1", "1:1", "1:2"]
    assert ports("".join(channel(f"c{i}") for i in range(32)))[29:] == ["0:30", "1:1", "1:2"]


def test_a_console_has_no_address() -> None:
    assert ports(CONSOLE * 2 + channel("a")) == ["-", "-", "0:1"]


def test_a_console_at_port_zero_takes_another_away() -> None:
    console = "<console type='pty'><target type='virtio'/><address type='virtio-serial' port='0'/></console>"
    assert ports(console + channel("a")) == ["0:0", "0:2"]


@pytest.mark.parametrize(
    ("devices", "sentence"),
    [
        (
            channel("a", "port='1'") + channel("b", "port='1'"),
            "virtio serial port 1 on controller 0 is already occupied",
        ),
        (channel("a", "port='99'"), "virtio serial controller 0 does not have port 99"),
        (
            "<controller type='virtio-serial' ports='4'/>" + channel("a", "port='9'"),
            "virtio serial controller 0 does not have port 9",
        ),
        (
            "<controller type='virtio-serial' ports='1'/>" + channel("a", "controller='0'"),
            "Unable to find a free port on virtio-serial controller 0",
        ),
    ],
)
def test_what_cannot_be(devices: str, sentence: str) -> None:
    with pytest.raises(XMLError) as caught:
        completed(devices)
    assert caught.value.detail == sentence
