from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.capabilities import PROBED_DEVICES, Capabilities, Machine
from tests.fakes.host import capabilities


def test_json_there_and_back() -> None:
    text = json.dumps(capabilities().to_json())
    assert Capabilities.from_json(json.loads(text)) == capabilities()


def broken(**changes: Any) -> dict[str, Any]:
    return {**capabilities().to_json(), **changes}


MACHINE = ["m", None, 1, True, False, False, None, None]


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        broken(another=1),
        broken(version=[7, 2]),
        broken(version=[7, 2, True]),
        broken(version="7.2.0"),
        broken(package=None),
        broken(binary=1),
        broken(machines={}),
        broken(machines=[MACHINE[:-1]]),
        broken(machines=[["m", None, "1", *MACHINE[3:]]]),
        broken(machines=["machine"]),
        broken(cpus=[["c", "t", ["feature"], False, False]]),
        broken(commands=["quit"]),
        broken(device_properties="x"),
        broken(device_properties={"x": ["y"]}),
    ],
)
def test_anything_else_is_refused(data: object) -> None:
    with pytest.raises(ValueError):
        Capabilities.from_json(data)


def test_a_machine_is_found_by_name_and_by_alias() -> None:
    machine = capabilities().resolve_machine("q35")
    assert machine.name.startswith("pc-q35-")
    assert capabilities().resolve_machine(machine.name) is machine


def test_an_unknown_machine_is_refused_in_libvirts_words() -> None:
    with pytest.raises(ConfigUnsupported, match=r"Emulator '/.*' does not support machine type 'bogus'$"):
        capabilities().resolve_machine("bogus")


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("pc-q35-7.2", "pc-q35"),
        ("pc-i440fx-2.12", "pc-i440fx"),
        ("pc-q35-rhel9.4.0", "pc-q35"),
        ("virt-10.0", "virt"),
        ("microvm", "microvm"),
        ("x-remote", "x-remote"),
    ],
)
def test_the_family_of_a_machine(name: str, family: str) -> None:
    assert Machine(name, None, 1, True, False, False, None, None).family == family


def test_what_is_there_and_what_is_not() -> None:
    qemu = capabilities()
    assert qemu.has_device("virtio-blk-pci")
    assert qemu.has_device("rng-random")
    assert not qemu.has_device("bogus")
    assert qemu.has_property("virtio-blk-pci", "bootindex")
    assert not qemu.has_property("virtio-blk-pci", "bogus")
    assert qemu.has_machine_property("q35", "smm")
    assert not qemu.has_machine_property("q35", "bogus")
    assert qemu.has_argument("blockdev-add", "node-name")
    assert qemu.has_option("machine", "type")
    assert qemu.has_netdev("user")
    assert qemu.has_chardev("socket")
    assert qemu.has_blockdev_driver("qcow2")
    assert qemu.has_display("none")
    assert not any(
        (qemu.has_netdev("bogus"), qemu.has_chardev("bogus"), qemu.has_blockdev_driver("x"), qemu.has_display("x"))
    )


@pytest.mark.parametrize(("version", "loses"), [((8, 2, 99), True), ((9, 0, 0), False), ((10, 1, 0), False)])
def test_since_when_an_emulated_guest_may_run_while_it_is_migrated(version: tuple[int, int, int], loses: bool) -> None:
    assert dataclasses.replace(capabilities(), version=version).loses_emulated_memory is loses


def test_a_probed_device_that_qemu_lacks_has_no_property() -> None:
    lacking = next(name for name in PROBED_DEVICES if not capabilities().has_device(name))
    assert not capabilities().has_property(lacking, "id")


def test_what_was_not_asked_is_not_answered() -> None:
    with pytest.raises(InternalError, match="'sb16' are not probed"):
        capabilities().has_property("sb16", "audiodev")
    with pytest.raises(InternalError, match="'microvm' are not probed"):
        capabilities().has_machine_property("microvm", "pit")


def test_a_requirement_names_what_is_missing_and_where() -> None:
    qemu = capabilities()
    qemu.require_device("virtio-rng-pci")
    qemu.require_command("quit")
    qemu.require_netdev("user")
    version = ".".join(map(str, qemu.version))
    prefix = f"unsupported configuration: QEMU {version} ({qemu.binary}) has no "
    for require, what in (
        (qemu.require_device, "device 'bogus'"),
        (qemu.require_command, "QMP command 'bogus'"),
        (qemu.require_netdev, "network backend 'bogus'"),
    ):
        with pytest.raises(ConfigUnsupported) as caught:
            require("bogus")
        assert str(caught.value) == prefix + what
