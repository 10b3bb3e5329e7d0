"""key: what changes it, and what does not."""

from __future__ import annotations

import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_embedvm.errors import XMLError
from pytest_embedvm.guest.templates import key as module
from pytest_embedvm.guest.templates.key import named_files, qemu_identity, template_key
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.image import create_blank, create_overlay

DOMAIN = """
<domain type='qemu'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <genid>{uuid}</genid>
  <memory unit='MiB'>{memory}</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type><kernel>{kernel}</kernel><initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline></os>
  <devices>
    <disk type='file'><source file='{disk}'/><target dev='vda' bus='virtio'/></disk>
    <interface type='network'><mac address='{mac}'/><source network='default'/></interface>
  </devices>
</domain>
"""
GIVEN = {
    "name": "vm", "uuid": "8e7f6d5c-0000-4000-8000-000000000001", "memory": "256", "cmdline": "quiet",
    "mac": "52:54:00:00:00:01",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """Digests are noted in a cache of the test's own."""


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("kernel", "initrd", "disk")}
    for name, path in found.items():
        path.write_bytes(name.encode() * 1000)
    return found


def prepare(vm: Any) -> None:
    vm.run("true")


def prepare_otherwise(vm: Any) -> None:
    vm.run("false")


def key(paths: dict[str, Path], domain: str = DOMAIN, **changes: Any) -> str:
    xml = domain.format(**{**GIVEN, **paths, **{k: changes.pop(k) for k in GIVEN if k in changes}})
    given: dict[str, Any] = {"capabilities": "q", "accelerator": "tcg", "cpu": None, "files": named_files(xml)}
    return template_key(domain=xml, **{**given, **changes})


def test_it_is_sixteen_hexadecimal_digits(paths: dict[str, Path]) -> None:
    assert len(key(paths)) == 16
    assert set(key(paths)) <= set(string.hexdigits.lower())


@pytest.mark.parametrize(
    "change",
    [
        {"memory": "257"}, {"cmdline": "loud"}, {"capabilities": "another QEMU"}, {"accelerator": "kvm"},
        {"cpu": "max"}, {"version": "2"}, {"parent": "0123456789abcdef"}, {"prepare": prepare},
        {"inputs": [Path(__file__)]},
    ],
    ids=" ".join,
)  # fmt: skip
def test_each_of_these_changes_it(paths: dict[str, Path], change: dict[str, Any]) -> None:
    assert key(paths, **change) != key(paths)


def test_two_functions_that_prepare_differ(paths: dict[str, Path]) -> None:
    assert key(paths, prepare=prepare) == key(paths, prepare=prepare)
    assert key(paths, prepare=prepare) != key(paths, prepare=prepare_otherwise)


@pytest.mark.parametrize("name", ["kernel", "initrd", "disk"])
def test_a_file_of_other_content_changes_it_and_its_path_does_not(
    paths: dict[str, Path], name: str, tmp_path: Path
) -> None:
    before = key(paths)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(paths[name].read_bytes())
    assert key({**paths, name: elsewhere}) == before
    elsewhere.write_bytes(paths[name].read_bytes() + b"\n")
    assert key({**paths, name: elsewhere}) != before
    paths[name].write_bytes(paths[name].read_bytes()[::-1])
    assert key(paths) != before


def test_two_files_cannot_change_places(paths: dict[str, Path]) -> None:
    assert key({**paths, "kernel": paths["initrd"], "initrd": paths["kernel"]}) != key(paths)


def test_what_a_disk_stands_on_counts_by_its_content(paths: dict[str, Path], tmp_path: Path) -> None:
    keys = {}
    for name, content in (("a", b"a"), ("b", b"a"), ("c", b"c")):
        base = tmp_path / f"base of {name}"
        create_blank(base, 1 << 20)
        base.write_bytes(base.read_bytes() + content * 4096)
        create_overlay(base, tmp_path / name, "qcow2")
        keys[name] = key({**paths, "disk": tmp_path / name})
    assert keys["a"] == keys["b"] != keys["c"]


def test_an_input_counts_by_its_content_and_the_names_in_it(paths: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "a").write_text("1")
    found = [key(paths, inputs=[folder])]
    (folder / "a").rename(folder / "b")
    found.append(key(paths, inputs=[folder]))
    (folder / "b").write_text("2")
    found.append(key(paths, inputs=[folder]))
    (folder / "empty").mkdir()
    found.append(key(paths, inputs=[folder]))
    assert len(set(found)) == 4
    folder.rename(tmp_path / "elsewhere")
    assert key(paths, inputs=[tmp_path / "elsewhere"]) == found[-1]


def test_another_version_of_the_project_changes_it(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(paths)
    module._project.cache_clear()
    monkeypatch.setattr(module, "__version__", "99")
    assert key(paths) != before
    module._project.cache_clear()


def test_a_changed_source_of_the_project_changes_it(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "package"
    (package / "driver/__pycache__").mkdir(parents=True)
    (package / "plugin").mkdir()
    monkeypatch.setattr(module, "_PACKAGE", package)
    found = []
    for name in ("driver/start.py", "driver/__pycache__/start.pyc", "plugin/hooks.py", "driver/init"):
        (package / name).write_text("text")
        module._project.cache_clear()
        found.append(key(paths))
    assert found[0] == found[1] == found[2] != found[3]
    module._project.cache_clear()


IDENTITIES = st.fixed_dictionaries({
    "name": st.text(string.ascii_letters + string.digits + "-_", min_size=1),
    "uuid": st.uuids().map(str),
    "mac": st.binary(min_size=6, max_size=6).map(lambda octets: octets.hex(":")),
})  # fmt: skip


@given(one=IDENTITIES, other=IDENTITIES)
def test_what_each_machine_has_of_its_own_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, one: dict[str, str], other: dict[str, str]
) -> None:
    paths = {name: Path("/nonexistent", name) for name in ("kernel", "initrd", "disk")}
    assert key(paths, **one) == key(paths, **other)


@given(seed=st.integers())
def test_the_looks_of_the_xml_do_not_count(seed: int) -> None:
    """The order of attributes, space between elements, comments."""
    chance = random.Random(seed)
    space = lambda: chance.choice(["", "\n", "  ", "<!-- a word -->"])  # noqa: E731
    plain = "<domain type='qemu'><os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    words = ["arch='x86_64'", 'machine="q35"']
    chance.shuffle(words)
    other = (
        f"<domain type='qemu'>{space()}<os>{space()}<type {' '.join(words)}>{space()}hvm</type>{space()}</os></domain>"
    )
    one, another = (
        template_key(domain=text, files=[], capabilities="q", accelerator="tcg", cpu=None) for text in (plain, other)
    )
    assert one == another
    third = template_key(domain=other.replace("hvm", "xen"), files=[], capabilities="q", accelerator="tcg", cpu=None)
    assert third != one


def test_the_order_of_devices_counts(paths: dict[str, Path]) -> None:
    other = (
        DOMAIN.replace("<devices>", "<devices><rng model='virtio'/>"),
        DOMAIN.replace("</devices>", "<rng model='virtio'/></devices>"),
    )
    assert len({key(paths, domain) for domain in other}) == 2


def test_the_same_in_another_process(paths: dict[str, Path]) -> None:
    """Sets have another order there."""
    program = (
        "import sys; from pathlib import Path; from tests.guest.templates.test_key import key, prepare\n"
        "print(key({p.name: p for p in map(Path, sys.argv[1:])}, prepare=prepare))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    words = [sys.executable, "-c", program, *map(str, paths.values())]
    there = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.strip() == key(paths, prepare=prepare)


def test_what_is_no_domain_has_none() -> None:
    with pytest.raises(XMLError):
        template_key(domain="<network/>", files=[], capabilities="q", accelerator="tcg", cpu=None)


def test_a_file_that_is_gone_is_an_error(paths: dict[str, Path]) -> None:
    with pytest.raises(FileNotFoundError):
        key(paths, files=[Path("/nonexistent/kernel")])


def test_named_files_are_those_that_are_there(paths: dict[str, Path], tmp_path: Path) -> None:
    xml = DOMAIN.format(**{**GIVEN, **paths, "cmdline": tmp_path, "initrd": "/nonexistent"})
    assert named_files(xml) == [paths["kernel"], paths["disk"]]


def test_another_qemu_is_another_identity(tmp_path: Path) -> None:
    binary, same = tmp_path / "qemu", tmp_path / "copied"
    for path in (binary, same):
        path.write_text("#!/bin/sh\n")
    before = qemu_identity(binary, "tcg")
    assert qemu_identity(same, "tcg") == before
    assert qemu_identity(binary, "tcg") == before != qemu_identity(binary, "kvm")
    assert qemu_identity(find_binary(), "tcg") != before
    binary.write_text("#!/bin/sh\ntrue\n")
    assert qemu_identity(binary, "tcg") != before
