from __future__ import annotations

import gzip
import struct

import pytest

from pytest_embedvm.guest.image.vmlinux import arch_of, bootable, release_of


def elf(note: tuple[bytes, int] | None, machine: int = 62) -> bytes:
    """A 64-bit ELF file with one note, or with none."""
    owner, kind = note or (b"GNU", 3)
    text = struct.pack("<III", len(owner) + 1, 4, kind) + (owner + b"\0").ljust(8, b"\0")[: (len(owner) + 4) // 4 * 4]
    text += b"\0\0\0\0"
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    program = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(text), len(text), 4)
    return header + program + text + b"Linux version 6.1.0-test (builder) "


def bzimage(payload: bytes, protocol: int = 0x20F) -> bytes:
    """An x86 kernel of four setup sectors around PAYLOAD."""
    data = bytearray(5 * 512)
    data[0x1F1] = 4
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x206, protocol)
    struct.pack_into("<H", data, 0x20E, 0x300)
    data[0x500 : 0x500 + 20] = b"6.1.0-cloud (me) #1\0"
    struct.pack_into("<II", data, 0x248, 0x40, len(payload))
    return bytes(data) + bytes(0x40) + payload + b"trailing"


def test_a_vmlinux_with_a_pvh_entry_is_taken_out() -> None:
    kernel = elf((b"Xen", 18))
    found = bootable(bzimage(gzip.compress(kernel)))
    assert (found.data, found.pvh, found.note) == (kernel, True, None)


def test_a_vmlinux_is_taken_as_it_is() -> None:
    assert bootable(elf((b"Xen", 18))).pvh


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bzimage(gzip.compress(elf(None))), "no PVH entry"),
        (bzimage(gzip.compress(elf((b"Xen", 17)))), "no PVH entry"),
        (bzimage(b"\x1f\x8bnonsense"), "damaged gzip"),
        (bzimage(b"neither"), "it begins with"),
        (bzimage(b"", protocol=0x207), "boot protocol 2.07"),
    ],
)
def test_else_the_bzimage_boots_and_the_note_says_why(data: bytes, reason: str) -> None:
    found = bootable(data)
    assert found.data == data
    assert not found.pvh
    assert reason in (found.note or "")


def test_arch_and_release_are_in_the_bytes() -> None:
    assert arch_of(bzimage(b"")) == "x86_64"
    assert arch_of(elf(None, machine=183)) == "aarch64"
    assert arch_of(bytes(0x38) + b"ARM\x64" + bytes(1000)) == "aarch64"
    assert arch_of(b"text" * 300) is None
    assert release_of(bzimage(b"")) == "6.1.0-cloud"
    assert release_of(elf(None)) == "6.1.0-test"
    assert release_of(b"text" * 300) is None


def test_an_arm_kernel_boots_as_it_is() -> None:
    image = bytes(0x38) + b"ARM\x64" + bytes(1000)
    assert (bootable(image).data, bootable(image).note) == (image, None)
