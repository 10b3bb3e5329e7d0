from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import sys

import pytest

from pytest_embedvm.guest.image.decompress import Undecodable, decompress

DATA = b"kernel" * 5000
TAIL = len(DATA).to_bytes(4, "little")


@pytest.mark.parametrize(
    "packed",
    [gzip.compress(DATA), lzma.compress(DATA), lzma.compress(DATA, lzma.FORMAT_ALONE), bz2.compress(DATA)],
    ids=["gzip", "xz", "lzma", "bzip2"],
)
def test_the_standard_librarys(packed: bytes) -> None:
    assert decompress(packed) == DATA
    assert decompress(packed + TAIL) == DATA


def test_what_is_not_compressed_stays() -> None:
    assert decompress(b"\x7fELF") == b"\x7fELF"


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"\xfd7zXZ\x00", b"BZh"])
def test_damage_is_told(magic: bytes) -> None:
    with pytest.raises(Undecodable, match="damaged"):
        decompress(magic + b"nonsense" * 10)


def lz4_legacy() -> bytes:
    block = pytest.importorskip("lz4.block").compress(DATA, store_size=False)
    return b"\x02\x21\x4c\x18" + len(block).to_bytes(4, "little") + block


def zstd() -> bytes:
    packed: bytes = pytest.importorskip("zstandard").compress(DATA)
    return packed


def test_lz4_and_zstd_by_library() -> None:
    assert decompress(lz4_legacy()) == DATA
    assert decompress(lz4_legacy() + TAIL) == DATA
    assert decompress(zstd() + TAIL) == DATA


@pytest.mark.parametrize(("tool", "module"), [("lz4", "lz4.block"), ("zstd", "zstandard")])
def test_lz4_and_zstd_by_tool(tool: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"there is no {tool}")
    packed = lz4_legacy() if tool == "lz4" else zstd()
    monkeypatch.setitem(sys.modules, module, None)
    assert decompress(packed + TAIL) == DATA


@pytest.mark.parametrize(("tool", "module"), [("lz4", "lz4.block"), ("zstd", "zstandard")])
def test_neither_library_nor_tool(tool: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = lz4_legacy() if tool == "lz4" else zstd()
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(Undecodable, match=f"compressed with {tool}: install"):
        decompress(packed)
