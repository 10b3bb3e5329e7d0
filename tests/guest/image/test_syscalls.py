"""The program that makes system calls, byte for byte; what it does is seen in a guest (tests/guest/test_renewal.py)."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.guest.image import syscalls
from pytest_embedvm.guest.image.syscalls import BUFFER_ADDRESS, INSTRUCTIONS, RECORD, Calls

PROGRAM = """
    7f454c46 02010100 00000000 00000000  0200 3e00 01000000 b000400000000000 4000000000000000 0000000000000000
    00000000 4000 3800 0200 0000 0000 0000
    01000000 05000000 0000000000000000 0000400000000000 0000400000000000 f000000000000000 f000000000000000
    0010000000000000
    01000000 06000000 0000000000000000 0000500000000000 0000500000000000 0000000000000000 0010000000000000
    0010000000000000
    31ff be00005000 ba00100000 31c0 0f05 85c0 7e06 01c6 29c2 75f2
    bb00005000 488b03 488b7b08 488b7310 488b5318 4c8b5320 4c8b4328 0f05 488903 83c330 ebdf
"""


def test_the_program_byte_for_byte() -> None:
    assert syscalls.program("x86_64") == bytes.fromhex(PROGRAM)


def test_other_architectures_have_none() -> None:
    assert syscalls.program("aarch64") is None


@pytest.mark.skipif(shutil.which("as") is None or shutil.which("objcopy") is None, reason="there is no assembler")
def test_an_assembler_makes_the_same_of_the_instructions(tmp_path: Path) -> None:
    lines = [".intel_syntax noprefix", *(text for _, text in INSTRUCTIONS), ""]
    subprocess.run(["as", "--64", "-o", tmp_path / "o", "-"], input="\n".join(lines), text=True, check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", tmp_path / "o", tmp_path / "code"], check=True)
    assert (tmp_path / "code").read_bytes() == b"".join(bytes.fromhex(code) for code, _ in INSTRUCTIONS)


def test_calls_are_records_with_what_they_point_to_behind() -> None:
    calls = Calls()
    calls.add("open", b"/dev/urandom\0", 1)
    calls.add("ioctl", 0, 0x5207)
    text = calls.to_bytes()
    data = 4 * RECORD.size
    assert list(RECORD.iter_unpack(text[:data])) == [
        (2, BUFFER_ADDRESS + data, 1, 0, 0, 0),
        (16, 0, 0x5207, 0, 0, 0),
        (1, 1, BUFFER_ADDRESS, 2 * RECORD.size, 0, 0),  # write(1, the two records)
        (231, 0, 0, 0, 0, 0),
    ]
    assert text[data:] == b"/dev/urandom\0\0\0\0"


def test_results_are_named() -> None:
    calls = Calls()
    calls.add("open", b"/dev/urandom\0", 1)
    calls.add("clock_settime", 0, struct.pack("<qq", 1, 0))
    calls.add("close", 0)
    output = RECORD.pack(0, 1, 2, 3, 4, 5) + RECORD.pack(-1, 0, 0, 0, 0, 0)
    opened, refused = calls.results(output)
    assert (opened.value, opened.error) == (0, None)
    assert refused.error == "clock_settime: EPERM, Operation not permitted"
    assert calls.results(b"") == []


def test_too_many_calls_are_refused() -> None:
    calls = Calls()
    for _ in range(100):
        calls.add("close", 0)
    with pytest.raises(ValueError, match=r"100 calls of 4896 bytes: 4096 at most"):
        calls.to_bytes()
