"""The QMP commands that add a part to a running QEMU and take it away: one row for each shape."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_embedvm.qemu.parts import (
    BlockdevPart,
    ChardevPart,
    Connect,
    Descriptor,
    DevicePart,
    KeyvalPart,
    Listen,
    NetdevPart,
    ObjectPart,
    Part,
    option,
)

END = Descriptor("charchannel0", Listen("/s"))
DEVICE = {"driver": "d", "id": "x"}
OBJECT = {"qom-type": "t", "id": "o"}
NETDEV = {"type": "user", "id": "n"}
NAMES: dict[str, str | int] = {"charchannel0": "charchannel0.7"}


def chardev(head: str, **props: Any) -> ChardevPart:
    return ChardevPart("-chardev", head, {"id": "c", **props})


def inet(host: str, port: str) -> dict[str, Any]:
    return {"type": "inet", "data": {"host": host, "port": port}}


@pytest.mark.parametrize(
    ("part", "plug", "unplug"),
    [
        (DevicePart(DEVICE), ("device_add", DEVICE), ("device_del", {"id": "x"})),
        (ObjectPart(OBJECT), ("object-add", OBJECT), ("object-del", {"id": "o"})),
        (NetdevPart(NETDEV), ("netdev_add", NETDEV), ("netdev_del", {"id": "n"})),
        (
            BlockdevPart({"driver": "raw", "node-name": "b"}),
            ("blockdev-add", {"driver": "raw", "node-name": "b"}),
            ("blockdev-del", {"node-name": "b"}),
        ),
        (
            NetdevPart({"type": "stream", "addr": {"type": "fd", "str": END}, "id": "n"}),
            ("netdev_add", {"type": "stream", "addr": {"type": "fd", "str": "charchannel0.7"}, "id": "n"}),
            ("netdev_del", {"id": "n"}),
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_takes_the_same_json(part: Part, plug: tuple[str, Any], unplug: tuple[str, Any]) -> None:
    added, removed = part.plug(NAMES), part.unplug()
    assert added
    assert removed
    assert (added.name, added.arguments) == plug
    assert (removed.name, removed.arguments) == unplug


@pytest.mark.parametrize(
    ("part", "data"),
    [
        (chardev("pty"), {}),
        (chardev("null", logfile="/l", logappend=True), {"logfile": "/l", "logappend": True}),
        (
            chardev("socket", fd=END, server=True, wait=False),
            {"server": True, "wait": False, "addr": {"type": "fd", "data": {"str": "charchannel0.7"}}},
        ),
        (
            chardev("socket", fd=Descriptor("charchannel0", Connect("/s"))),
            {"addr": {"type": "fd", "data": {"str": "charchannel0.7"}}},
        ),
        (chardev("socket", path="/p", reconnect=3), {"reconnect": 3, "addr": {"type": "unix", "data": {"path": "/p"}}}),
        (
            chardev("socket", host="h", port="1", telnet=True, server=True, wait=False),
            {"server": True, "wait": False, "telnet": True, "addr": inet("h", "1")},
        ),
        (
            chardev("udp", host="h", port="1", localaddr="", localport="0"),
            {"remote": inet("h", "1"), "local": inet("", "0")},
        ),
        (chardev("file", path="/f", append=True), {"append": True, "out": "/f"}),
        (chardev("pipe", path="/f"), {"device": "/f"}),
        (chardev("serial", path="/dev/ttyS0"), {"device": "/dev/ttyS0"}),
        (chardev("parallel", path="/dev/parport0"), {"device": "/dev/parport0"}),
    ],
    ids=lambda value: getattr(value, "head", ""),
)
def test_a_character_device_has_a_shape_of_its_own(part: ChardevPart, data: dict[str, Any]) -> None:
    command = part.plug(NAMES)
    assert command.name == "chardev-add"
    assert command.arguments == {"id": "c", "backend": {"type": part.head, "data": data}}
    assert (part.unplug().name, part.unplug().arguments) == ("chardev-remove", {"id": "c"})


def test_only_a_stream_wants_the_numbers_of_its_descriptors() -> None:
    assert NetdevPart({"type": "stream", "id": "n"}).plugs_numbers
    assert not NetdevPart({"type": "tap", "id": "n"}).plugs_numbers
    assert not chardev("socket", fd=END).plugs_numbers


def test_what_qemu_cannot_be_given_later() -> None:
    for part in (KeyvalPart("-machine", "q35"), option("-S")):
        assert part.plug({}) is None
        assert part.unplug() is None
