from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.modules import Index, choose_modules, name_of, plain_path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A kernel's modules: ext5 needs jbd and, softly, what answers to crypto-sum; unlike is not asked for."""
    for name, data in {
        "fs/ext5.ko": b"ext5",
        "fs/jbd.ko": b"jbd",
        "lib/sum-generic.ko": b"sum",
        "x/unlike.ko": b"x",
    }.items():
        path = tmp_path / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".ko.xz").write_bytes(lzma.compress(data))
    (tmp_path / "modules.dep").write_text(
        "kernel/fs/ext5.ko.xz: kernel/fs/jbd.ko.xz\n"
        "kernel/fs/jbd.ko.xz:\n"
        "kernel/lib/sum-generic.ko.xz:\n"
        "kernel/x/unlike.ko.xz:\n"
    )
    (tmp_path / "modules.builtin").write_text("kernel/drivers/nvme/nvme.ko\n")
    (tmp_path / "modules.alias").write_text(
        "# Aliases\nalias crypto-sum sum_generic\nalias pci:v00001AF4d*sv* ext5\nalias pci:v* unlike\n"
    )
    (tmp_path / "modules.softdep").write_text("softdep ext5 pre: crypto-sum\n")
    return tmp_path


def test_dependencies_hard_and_soft_come_along(tree: Path) -> None:
    chosen = choose_modules(tree, ("ext5", "nvme", "nowhere"))
    modules = {path: data for path, data in chosen.files.items() if path.endswith(".ko")}
    assert modules == {"kernel/fs/ext5.ko": b"ext5", "kernel/fs/jbd.ko": b"jbd", "kernel/lib/sum-generic.ko": b"sum"}
    assert chosen.missing == ("nowhere",)
    assert chosen.notes == ()


def test_the_tables_hold_what_is_carried(tree: Path) -> None:
    files = choose_modules(tree, ("ext5",)).files
    assert (
        files["modules.dep"] == b"kernel/fs/ext5.ko: kernel/fs/jbd.ko\nkernel/fs/jbd.ko:\nkernel/lib/sum-generic.ko:\n"
    )
    assert files["modules.alias"] == b"alias crypto-sum sum_generic\nalias pci:v00001AF4d*sv* ext5\n"
    assert files["modules.builtin"] == b"kernel/nvme.ko\n"


def test_a_module_that_cannot_be_unpacked_is_missing(tree: Path) -> None:
    (tree / "kernel/fs/jbd.ko.xz").write_bytes(b"\xfd7zXZ\x00broken")
    chosen = choose_modules(tree, ("ext5", "jbd"))
    assert chosen.missing == ("jbd",)
    assert "damaged" in chosen.notes[0]


def test_no_tables_no_modules(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"modules\.dep"):
        choose_modules(tmp_path)


def test_names() -> None:
    assert name_of("kernel/drivers/char/hw_random/virtio-rng.ko.zst") == "virtio_rng"
    assert plain_path("kernel/fs/x.ko.gz") == plain_path("kernel/fs/x.ko") == "kernel/fs/x.ko"


def test_a_hyphen_is_an_underscore(tree: Path) -> None:
    assert Index(tree).resolve("sum-generic") == ["sum_generic"]
