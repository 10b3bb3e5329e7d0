"""Instructions of x86-64, as far as `compiler` needs them: one value in rax, the rest on the stack."""

from __future__ import annotations

import struct
from typing import Final

# Intel SDM, volume 2
PUSH: Final = b"\x50"
#: Left operand from the stack into rax, the right one out of rax into rcx.
OPERANDS: Final = b"\x48\x89\xc1\x58"
ARITHMETIC: Final = {
    "Add": b"\x48\x01\xc8", "Sub": b"\x48\x29\xc8", "Mult": b"\x48\x0f\xaf\xc1", "BitAnd": b"\x48\x21\xc8",
    "BitOr": b"\x48\x09\xc8", "BitXor": b"\x48\x31\xc8", "LShift": b"\x48\xd3\xe0", "RShift": b"\x48\xd3\xe8",
    "FloorDiv": b"\x48\x99\x48\xf7\xf9", "Mod": b"\x48\x99\x48\xf7\xf9\x48\x89\xd0",
}  # fmt: skip
_CONDITIONS: Final = {"Eq": 0x94, "NotEq": 0x95, "Lt": 0x9C, "GtE": 0x9D, "LtE": 0x9E, "Gt": 0x9F}
NEGATE: Final = b"\x48\xf7\xd8"
INVERT: Final = b"\x48\xf7\xd0"
TEST: Final = b"\x48\x85\xc0"
#: rax becomes 1 where it was 0, else 0.
NOT: Final = TEST + b"\x0f\x94\xc0\x0f\xb6\xc0"
#: From the address in rax; nothing is sign-extended.
LOAD: Final = {"byte": b"\x0f\xb6\x00", "half": b"\x0f\xb7\x00", "word": b"\x8b\x00", "long": b"\x48\x8b\x00"}
#: What was pushed, to the address in rax.
STORE: Final = {
    "byte": b"\x59\x88\x08", "half": b"\x59\x66\x89\x08", "word": b"\x59\x89\x08", "long": b"\x59\x48\x89\x08",
}  # fmt: skip
#: Pops three: where to, where from, how many bytes.
COPY: Final = b"\x59\x5e\x5f\xf3\xa4"
_SYSTEM_CALL: Final = (b"\x58", b"\x5f", b"\x5e", b"\x5a", b"\x41\x5a", b"\x41\x58", b"\x41\x59")
LEAVE: Final = b"\xc9\xc3"
#: The stack as the kernel made it is the argument of what is called next; its answer is the exit status.
ENTRY: Final = b"\x48\x89\xe0\x50"
EXIT: Final = b"\x48\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"
#: Followed by the distance from their own end.
CALL: Final = b"\xe8"
JUMP: Final = b"\xe9"
JUMP_IF_ZERO: Final = TEST + b"\x0f\x84"
JUMP_IF_NOT: Final = TEST + b"\x0f\x85"
#: Followed by the number.
CONSTANT: Final = b"\x48\xb8"


def compare(kind: str) -> bytes:
    """Whether the left operand is so beside the right one, signed: 1 or 0."""
    return b"\x48\x39\xc8\x0f" + bytes((_CONDITIONS[kind],)) + b"\xc0\x0f\xb6\xc0"


def constant(number: int) -> bytes:
    if -(1 << 31) <= number < 1 << 31:
        return b"\x48\xc7\xc0" + struct.pack("<i", number)
    return CONSTANT + struct.pack("<q", number)


def enter(variables: int) -> bytes:
    """Begin a function that has so many variables."""
    return b"\x55\x48\x89\xe5\x48\x81\xec" + struct.pack("<i", 8 * variables)


def get(offset: int) -> bytes:
    """The variable so far from the frame's base."""
    return b"\x48\x8b\x85" + struct.pack("<i", offset)


def put(offset: int) -> bytes:
    return b"\x48\x89\x85" + struct.pack("<i", offset)


def drop(values: int) -> bytes:
    """Forget so many values on the stack."""
    return b"\x48\x81\xc4" + struct.pack("<i", 8 * values)


def system_call(values: int) -> bytes:
    """Of what was pushed: the number of the call first."""
    return b"".join(reversed(_SYSTEM_CALL[:values])) + b"\x0f\x05"
