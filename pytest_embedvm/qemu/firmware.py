"""A firmware image that runs a loop of known length and ends QEMU: a stop watch for guest code."""

from __future__ import annotations

from typing import Final

#: Twice as many instructions; some 100 ms under TCG, a tenth of that natively.
ITERATIONS: Final = 30_000_000

#: The I/O port where `-device isa-debug-exit` listens, and what the image writes to it when the loop is done.
EXIT_PORT: Final = 0xF4
EXIT_VALUE: Final = 0x2A
#: QEMU: hw/misc/debugexit.c, exit((val << 1) | 1)
EXIT_STATUS: Final = EXIT_VALUE << 1 | 1

SIZE: Final = 64 * 1024
#: Where an x86 processor starts: 16 bytes below the end of the image, which ends at 4 GiB.
_RESET: Final = SIZE - 16


def timed_loop(iterations: int = ITERATIONS) -> bytes:
    """A 64 KiB image for `-bios`: real mode, no stack, no memory but its own."""
    code = b"".join(
        (
            b"\x66\xb9" + iterations.to_bytes(4, "little"),  # mov ecx, iterations
            b"\x66\x49",  # again: dec ecx
            b"\x75\xfc",  # jnz again
            bytes((0xB0, EXIT_VALUE)),  # mov al, EXIT_VALUE
            bytes((0xE6, EXIT_PORT)),  # out EXIT_PORT, al
            b"\xf4",  # halt: hlt
            b"\xeb\xfd",  # jmp halt
        )
    )
    to_code = SIZE - (_RESET + 3)  # from behind the jump, wrapping around at 64 KiB, to the image's start
    jump = b"\xe9" + to_code.to_bytes(2, "little")  # jmp code
    return (code.ljust(_RESET, b"\xf4") + jump).ljust(SIZE, b"\xf4")
