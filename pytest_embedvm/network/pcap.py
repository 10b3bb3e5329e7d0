"""The file format of captured packets, with nanoseconds (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import struct
from typing import Final

#: More of a frame is never kept: QEMU's NET_BUFSIZE, which no frame exceeds.
SNAP_BYTES: Final = 4096 + 65536
_MAGIC: Final = 0xA1B23C4D
_ETHERNET: Final = 1
_SECOND: Final = 1_000_000_000

HEADER: Final = struct.pack("<IHHIIII", _MAGIC, 2, 4, 0, 0, SNAP_BYTES, _ETHERNET)


def record(time_ns: int, frame: bytes) -> bytes:
    """FRAME as it passed at TIME_NS, nanoseconds since 1970."""
    kept = frame[:SNAP_BYTES]
    seconds, nanoseconds = divmod(time_ns, _SECOND)
    return struct.pack("<IIII", seconds & 0xFFFFFFFF, nanoseconds, len(kept), len(frame)) + kept
