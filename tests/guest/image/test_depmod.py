from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.depmod import modinfo, write_tables
from pytest_embedvm.guest.image.modules import Index, choose_modules


def module(**fields: str | list[str]) -> bytes:
    """An ELF file whose `.modinfo` has FIELDS."""
    items = [(key, [value] if isinstance(value, str) else value) for key, value in fields.items()]
    text = b"".join(f"{key}={value}\0".encode() for key, values in items for value in values)
    names = b"\0.modinfo\0.shstrtab\0"
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, 3, 2
    )
    start = 64 + 3 * 64
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, start, len(text), 0, 0, 1, 0)
    sections += struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, start + len(text), len(names), 0, 0, 1, 0)
    return header + sections + text + names


def test_modinfo() -> None:
    found = modinfo(module(depends="a,b-c", alias=["x*", "y"], license="GPL"))
    assert found == {"depends": ["a,b-c"], "alias": ["x*", "y"], "license": ["GPL"]}
    assert modinfo(b"no module") == {}


def test_the_tables_are_what_choose_modules_reads(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    for name, fields in {
        "top": {"depends": "middle", "softdep": "pre: crypto-sum", "alias": "pci:v1*"},
        "middle": {"depends": "low-er"},
        "low-er": {"depends": ""},
        "sum": {"alias": "crypto-sum"},
    }.items():
        (tmp_path / f"kernel/{name}.ko").write_bytes(module(**fields))
    write_tables(tmp_path)
    assert Index(tmp_path).needs["top"] == ("middle", "low_er")
    assert set(choose_modules(tmp_path, ("pci:v1234",)).files) >= {
        "kernel/top.ko", "kernel/middle.ko", "kernel/low-er.ko", "kernel/sum.ko",
    }  # fmt: skip


def test_it_agrees_with_the_hosts_depmod(tmp_path: Path) -> None:
    host = next(iter(sorted(Path("/lib/modules").glob("*/modules.dep"))), None)
    if host is None:
        pytest.skip("this host has no kernel modules")
    (tmp_path / "kernel").symlink_to(host.parent / "kernel")
    write_tables(tmp_path)
    ours, theirs = Index(tmp_path), Index(host.parent)
    assert {name: set(needs) for name, needs in ours.needs.items()} == {
        name: set(needs) for name, needs in theirs.needs.items()
    }
    assert set(ours.aliases) == set(theirs.aliases)
