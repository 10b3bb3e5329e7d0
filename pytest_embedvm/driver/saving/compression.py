"""Programs that make an image smaller on its way, and read it back (libvirt: qemuSaveCompression)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from typing import Final

from pytest_embedvm.driver.migration import transfer
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.qemu.process import Process

#: The formats of `save_image_format`, and the programs that write them; `-d` reads.
FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "raw": (),
    "gzip": ("gzip", "-c"),
    "bzip2": ("bzip2", "-c"),
    "xz": ("xz", "-c"),
    "lzop": ("lzop", "-c", "--ignore-warn"),
    "zstd": ("zstd", "-c", "-q"),
}
#: How long a program may take to end when nothing more comes, or to write what it has.
END_TIMEOUT_S: Final = 120.0


def check(name: str) -> None:
    """:raise OperationFailed: when no such format is known, or its program is not there."""
    # libvirt: qemuSaveImageGetCompressionProgram
    if name not in FORMATS:
        raise OperationFailed(f"Invalid save image format specified in configuration file: {name}")
    if name != "raw" and shutil.which(FORMATS[name][0]) is None:
        raise OperationFailed(
            f"Compression program for save image format in configuration file isn't available: {FORMATS[name][0]}"
        )


@contextlib.asynccontextmanager
async def writing(name: str, descriptor: int) -> AsyncIterator[int]:
    """Where QEMU is to write, so that what it wrote is in format NAME behind DESCRIPTOR when the block ends.

    What is yielded is to be closed by who gets it.

    :raise OperationFailed: when the program fails.
    """
    if name == "raw":
        yield os.dup(descriptor)
        return
    ours, theirs = os.pipe()
    try:
        process = Process.spawn(FORMATS[name], source=ours, output=descriptor, errors=subprocess.DEVNULL)
    except BaseException:
        os.close(theirs)
        raise
    finally:
        os.close(ours)
    try:
        yield theirs
        await transfer.first(process.wait(), timeout=END_TIMEOUT_S)
        if process.returncode != 0:
            raise OperationFailed(f"'{process.name}' failed: its exit status is {process.returncode}")
    finally:
        await process.kill()


@contextlib.asynccontextmanager
async def reading(name: str, descriptor: int) -> AsyncIterator[int]:
    """Where QEMU is to read what is in format NAME behind DESCRIPTOR; to be closed by who gets it.

    :raise OperationFailed: when nobody here can read that.
    """
    check(name)
    if name == "raw":
        yield os.dup(descriptor)
        return
    ours, theirs = os.pipe()
    try:
        process = Process.spawn((*FORMATS[name], "-d"), source=descriptor, output=theirs, errors=subprocess.DEVNULL)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        yield ours
    finally:
        await process.kill()  # what it could not read, QEMU could not load
