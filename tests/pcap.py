"""A reader of capture files that knows only the format (draft-ietf-opsawg-pcap), and is strict."""

from __future__ import annotations

import struct
from pathlib import Path


def read(path: Path) -> list[bytes]:
    """The frames in the file at PATH, which must be Ethernet with nanoseconds, and whole."""
    data = path.read_bytes()
    magic, major, minor, zone, accuracy, longest, link = struct.unpack_from("<IHHiIII", data)
    assert (magic, major, minor, zone, accuracy, link) == (0xA1B23C4D, 2, 4, 0, 0, 1)
    frames, at = [], 24
    while at < len(data):
        _, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        assert nanoseconds < 1_000_000_000
        assert kept == length <= longest
        assert at + 16 + kept <= len(data)
        frames.append(data[at + 16 : at + 16 + kept])
        at += 16 + kept
    return frames
