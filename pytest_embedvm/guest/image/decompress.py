"""The compressions kernels and their modules come in, told apart by their first bytes."""

from __future__ import annotations

import bz2
import importlib
import lzma
import shutil
import subprocess
import zlib
from collections.abc import Callable
from typing import Final

TOOL_TIMEOUT_S: Final = 120.0


class Undecodable(Exception):
    """The data is in no compression this host can undo; the text says which, and what would help."""


def decompress(data: bytes) -> bytes:
    """DATA as it was before compression: gzip, xz, lzma, bzip2, lz4 (the kernel's legacy frame) or zstd.

    Bytes after the compressed stream are ignored (a kernel's payload carries its size there). Data with none of
    the known magics is returned as it is.

    :raise Undecodable: when the stream is damaged, or the host has neither library nor tool for it.
    """
    for magic, decoder in _DECODERS:
        if data.startswith(magic):
            return decoder(data)
    return data


def _gzip(data: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(data)
    except zlib.error as error:
        raise Undecodable(f"damaged gzip data: {error}") from error


def _lzma(data: bytes) -> bytes:
    try:
        return lzma.LZMADecompressor().decompress(data)
    except lzma.LZMAError as error:
        raise Undecodable(f"damaged xz or lzma data: {error}") from error


def _bzip2(data: bytes) -> bytes:
    try:
        return bz2.BZ2Decompressor().decompress(data)
    except OSError as error:
        raise Undecodable(f"damaged bzip2 data: {error}") from error


def _lz4(data: bytes) -> bytes:
    """The kernel's lz4: a magic, then blocks of up to 8 MiB, each after its length (`lz4 -l`)."""
    try:
        block = importlib.import_module("lz4.block")
    except ImportError:
        return _by_tool(data, "lz4", "lz4")
    out: list[bytes] = []
    position = 4
    # What is left when less than a block's length and a byte follow is the payload's own size.
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "little")
        position += 4
        if length == 0 or position + length > len(data):
            break
        try:
            out.append(block.decompress(data[position : position + length], uncompressed_size=8 << 20))
        except block.LZ4BlockError as error:
            raise Undecodable(f"damaged lz4 data: {error}") from error
        position += length
    return b"".join(out)


def _zstd(data: bytes) -> bytes:
    try:
        zstandard = importlib.import_module("zstandard")
    except ImportError:
        return _by_tool(data, "zstd", "zstandard", "--long=31")
    try:
        # Kernels are compressed with --ultra: windows of 128 MiB, above the library's default limit.
        decoder = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        return bytes(decoder.decompress(data))
    except zstandard.ZstdError as error:
        raise Undecodable(f"damaged zstd data: {error}") from error


def _by_tool(data: bytes, tool: str, package: str, *options: str) -> bytes:
    """DATA through the command TOOL, which complains about trailing bytes and has then written all before them."""
    path = shutil.which(tool)
    if path is None:
        raise Undecodable(
            f"it is compressed with {tool}: install the Python package {package!r} or the command {tool!r}"
        )
    command = [path, "-dc", *options]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=TOOL_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Undecodable(f"{tool} -dc did not end within {TOOL_TIMEOUT_S:g} s") from error
    if not done.stdout:
        raise Undecodable(f"{tool} -dc: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


_DECODERS: Final[tuple[tuple[bytes, Callable[[bytes], bytes]], ...]] = (
    (b"\x1f\x8b", _gzip),
    (b"\xfd7zXZ\x00", _lzma),
    (b"]\x00\x00", _lzma),
    (b"BZh", _bzip2),
    (b"\x02\x21\x4c\x18", _lz4),
    (b"\x28\xb5\x2f\xfd", _zstd),
)
