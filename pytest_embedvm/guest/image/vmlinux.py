"""The uncompressed kernel out of a bzImage: QEMU boots it by PVH, which spares the guest the decompression."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Final

from pytest_embedvm.guest.image.decompress import Undecodable, decompress
from pytest_embedvm.guest.image.elf import ELF, MACHINES, NotELF

# linux: Documentation/arch/x86/boot.rst
SETUP_SECTORS: Final = 0x1F1
MAGIC: Final = 0x202
PROTOCOL: Final = 0x206
VERSION_POINTER: Final = 0x20E
PAYLOAD: Final = 0x248
PROTOCOL_WITH_PAYLOAD: Final = 0x208
SECTOR: Final = 512

# linux: Documentation/arch/arm64/booting.rst
ARM64_MAGIC: Final = (0x38, b"ARM\x64")

# xen: public/elfnote.h, XEN_ELFNOTE_PHYS32_ENTRY
PVH_NOTE: Final = (b"Xen", 18)


@dataclass(frozen=True)
class Bootable:
    """A kernel as QEMU's -kernel takes it, and why it is not the PVH one when it is not."""

    data: bytes
    pvh: bool
    note: str | None = None


def is_bzimage(data: bytes) -> bool:
    """Whether DATA begins as an x86 kernel with a setup header."""
    return data[MAGIC : MAGIC + 4] == b"HdrS"


def arch_of(data: bytes) -> str | None:
    """`x86_64` or `aarch64`, told from the kernel's own bytes; None when it is neither."""
    if is_bzimage(data):
        return "x86_64"
    offset, magic = ARM64_MAGIC
    if data[offset : offset + 4] == magic:
        return "aarch64"
    try:
        return MACHINES.get(ELF(data).machine)
    except NotELF:
        return None


def release_of(data: bytes) -> str | None:
    """The release (`uname -r`) a kernel says it is; None when it does not say."""
    if is_bzimage(data):
        start = struct.unpack_from("<H", data, VERSION_POINTER)[0] + SECTOR
        return data[start : data.index(b"\0", start)].decode(errors="replace").split(" ")[0]
    found = re.search(rb"Linux version ([!-~]+) ", data)
    return found[1].decode() if found else None


def bootable(data: bytes) -> Bootable:
    """The quickest form of the kernel DATA that QEMU can boot: its vmlinux where that has a PVH entry."""
    if arch_of(data) != "x86_64":
        return Bootable(data, pvh=False)
    try:
        kernel = _payload(data) if is_bzimage(data) else data
        if _has_pvh_entry(kernel):
            return Bootable(kernel, pvh=True)
        reason = "its vmlinux has no PVH entry note"
    except (Undecodable, NotELF, struct.error) as error:
        reason = str(error)
    return Bootable(data, pvh=False, note=f"the kernel boots as bzImage, which is slower: {reason}")


def _payload(data: bytes) -> bytes:
    """The decompressed vmlinux of the bzImage DATA.

    :raise Undecodable: when it cannot be had.
    """
    (protocol,) = struct.unpack_from("<H", data, PROTOCOL)
    if protocol < PROTOCOL_WITH_PAYLOAD:
        raise Undecodable(f"its boot protocol {protocol >> 8}.{protocol & 255:02} does not say where the payload is")
    offset, length = struct.unpack_from("<II", data, PAYLOAD)
    # linux: boot.rst, "if the setup_sects field contains 0, the real value is 4"
    start = ((data[SETUP_SECTORS] or 4) + 1) * SECTOR + offset
    return decompress(data[start : start + length])


def _has_pvh_entry(vmlinux: bytes) -> bool:
    return any((owner, kind) == PVH_NOTE for owner, kind, _ in ELF(vmlinux).notes())
