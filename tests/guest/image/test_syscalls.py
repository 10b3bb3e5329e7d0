"""What the program that makes system calls is given; what it does is seen in a guest (tests/guest/test_renewal.py)."""

from __future__ import annotations

import struct

import pytest

from pytest_embedvm.guest.image.syscalls import BUFFER_ADDRESS, RECORD, Calls


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
