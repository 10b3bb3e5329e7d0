"""A program for the guest that makes the system calls it is given: what a shell has no command for, in one process.

There is no compiler where a guest is made, and none is needed for twenty instructions. The program reads records of
six numbers, a call's own and its arguments, makes one call after the other, and puts each result in the place of the
call's number. It ends by what it is told: `Calls` has it write the results and exit.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass
from typing import Final

#: Where the program and what it reads lie in its memory.
CODE_ADDRESS: Final = 0x400000
BUFFER_ADDRESS: Final = 0x500000
BUFFER_BYTES: Final = 0x1000

RECORD: Final = struct.Struct("<q5Q")

# linux: arch/x86/entry/syscalls/syscall_64.tbl
NUMBERS: Final = {"write": 1, "open": 2, "close": 3, "ioctl": 16, "clock_settime": 227, "exit_group": 231}

#: Its machine code, as GNU as spells and encodes it. A system call changes rax, rcx and r11, and nothing else.
INSTRUCTIONS: Final = (
    ("31 ff", "xor edi, edi"),  # standard input,
    ("be 00 00 50 00", "mov esi, 0x500000"),  # to the buffer,
    ("ba 00 10 00 00", "mov edx, 0x1000"),  # as much as goes into it
    ("31 c0", "read: xor eax, eax"),  # read(edi, rsi, rdx)
    ("0f 05", "syscall"),
    ("85 c0", "test eax, eax"),
    ("7e 06", "jle first"),  # the end, or an error
    ("01 c6", "add esi, eax"),
    ("29 c2", "sub edx, eax"),
    ("75 f2", "jnz read"),
    ("bb 00 00 50 00", "first: mov ebx, 0x500000"),
    ("48 8b 03", "next: mov rax, [rbx]"),  # the call's number
    ("48 8b 7b 08", "mov rdi, [rbx+8]"),
    ("48 8b 73 10", "mov rsi, [rbx+16]"),
    ("48 8b 53 18", "mov rdx, [rbx+24]"),
    ("4c 8b 53 20", "mov r10, [rbx+32]"),
    ("4c 8b 43 28", "mov r8, [rbx+40]"),
    ("0f 05", "syscall"),
    ("48 89 03", "mov [rbx], rax"),  # its result
    ("83 c3 30", "add ebx, 48"),
    ("eb df", "jmp next"),  # behind the buffer there is nothing: records without an end end it by SIGSEGV
)

# linux: include/uapi/linux/elf.h
_HEADER: Final = struct.Struct("<16s2HI3QI6H")
_SEGMENT: Final = struct.Struct("<2I6Q")
_EXECUTABLE, _X86_64, _VERSION, _LOAD = 2, 62, 1, 1
_EXECUTE, _WRITE, _READ = 1, 2, 4
_PAGE: Final = 0x1000


def program(arch: str) -> bytes | None:
    """The ELF file for a guest of ARCH; None where there is none, and a guest does with what its shell can."""
    return _elf(b"".join(bytes.fromhex(code) for code, _ in INSTRUCTIONS)) if arch == "x86_64" else None


def _elf(code: bytes) -> bytes:
    """A static ELF file with CODE, which begins with its first instruction, and the buffer."""
    start = _HEADER.size + 2 * _SEGMENT.size
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")  # 64 bits, little endian, version 1
    header = _HEADER.pack(
        identity, _EXECUTABLE, _X86_64, _VERSION, CODE_ADDRESS + start, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 2, 0, 0, 0,
    )  # fmt: skip
    size = start + len(code)
    text = _SEGMENT.pack(_LOAD, _READ | _EXECUTE, 0, CODE_ADDRESS, CODE_ADDRESS, size, size, _PAGE)
    buffer = _SEGMENT.pack(_LOAD, _READ | _WRITE, 0, BUFFER_ADDRESS, BUFFER_ADDRESS, 0, BUFFER_BYTES, _PAGE)
    return header + text + buffer + code


@dataclass(frozen=True)
class Result:
    """What the call `name` returned."""

    name: str
    value: int

    @property
    def error(self) -> str | None:
        """What went wrong, by its name and in words; None if nothing did."""
        if self.value >= 0:
            return None
        return f"{self.name}: {errno.errorcode.get(-self.value, -self.value)}, {os.strerror(-self.value)}"


class Calls:
    """System calls for the program, in order."""

    def __init__(self) -> None:
        self._calls: list[tuple[str, tuple[int | bytes, ...]]] = []

    def add(self, name: str, *arguments: int | bytes) -> None:
        """Make the call NAME; bytes among ARGUMENTS are passed by their address."""
        self._calls.append((name, arguments))

    def to_bytes(self) -> bytes:
        """What the program reads: these calls, and those by which it writes their results and exits.

        :raise ValueError: when that is more than it reads.
        """
        length = len(self._calls) * RECORD.size
        calls = [*self._calls, ("write", (1, BUFFER_ADDRESS, length)), ("exit_group", (0,))]
        records, data = b"", b""
        for name, arguments in calls:
            words = []
            for argument in arguments:
                if isinstance(argument, bytes):
                    words.append(BUFFER_ADDRESS + len(calls) * RECORD.size + len(data))
                    data += argument + bytes(-len(argument) % 8)
                else:
                    words.append(argument)
            records += RECORD.pack(NUMBERS[name], *words, *[0] * (5 - len(words)))
        if len(records + data) > BUFFER_BYTES:
            raise ValueError(f"{len(self._calls)} calls of {len(records + data)} bytes: {BUFFER_BYTES} at most")
        return records + data

    def results(self, output: bytes) -> list[Result]:
        """What the calls returned, by what the program wrote: none of a call that it did not come to."""
        names = (name for name, _ in self._calls)
        whole = output[: len(output) // RECORD.size * RECORD.size]
        return [Result(name, record[0]) for name, record in zip(names, RECORD.iter_unpack(whole), strict=False)]
