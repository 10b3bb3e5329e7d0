"""How fast KVM runs guest code, asked of /dev/kvm itself without QEMU.

Runs as a program in a process of its own (`python -I -S kvm_loop.py DEVICE`), because a KVM_RUN that never returns
can only be ended with its process. Prints millions of instructions per second.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time

# Linux: include/uapi/linux/kvm.h, x86
CREATE_VM = 0xAE01
GET_VCPU_MMAP_SIZE = 0xAE04
CREATE_VCPU = 0xAE41
SET_USER_MEMORY_REGION = 0x4020AE46
RUN = 0xAE80
SET_REGS = 0x4090AE82
GET_SREGS = 0x8138AE83
SET_SREGS = 0x4138AE84
EXIT_HLT = 5

SREGS_BYTES = 312
#: In struct kvm_segment, which struct kvm_sregs begins with (CS): base u64, limit u32, selector u16.
CS_BASE_LIMIT_SELECTOR = struct.Struct("<QIH")
#: struct kvm_regs: 16 general registers (RCX is the third), RIP, RFLAGS.
REGS = struct.Struct("<18Q")
RCX, RIP, RFLAGS = 2, 16, 17
EXIT_REASON_OFFSET = 8  # in struct kvm_run

MEMORY_BYTES = 0x10000
START = 0x1000
CODE = (
    b"\x66\x49"  # again: dec ecx
    b"\x75\xfc"  # jnz again
    b"\xf4"  # hlt
)
INSTRUCTIONS_PER_ITERATION = 2

FIRST_ITERATIONS = 2_000
FIRST_RUNS = 3
#: A first run faster than this says little but that KVM is not hopeless: entering the guest dominates it.
FIRST_ENOUGH_S = 0.001
SECOND_ITERATIONS = 500_000


class Guest:
    """One virtual machine with one vCPU in real mode and 64 KiB of memory."""

    def __init__(self, device: str) -> None:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        vm = fcntl.ioctl(kvm, CREATE_VM, 0)
        self._memory = mmap.mmap(-1, MEMORY_BYTES)
        self._memory[START : START + len(CODE)] = CODE
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        fcntl.ioctl(vm, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, MEMORY_BYTES, address))
        self._vcpu = fcntl.ioctl(vm, CREATE_VCPU, 0)
        self._run = mmap.mmap(self._vcpu, fcntl.ioctl(kvm, GET_VCPU_MMAP_SIZE, 0))

    def loop(self, iterations: int) -> float:
        """Run ITERATIONS of the loop and return the seconds they took.

        :raise OSError: when KVM refuses, or stops the guest for anything but its halt.
        """
        special = bytearray(fcntl.ioctl(self._vcpu, GET_SREGS, bytes(SREGS_BYTES)))
        CS_BASE_LIMIT_SELECTOR.pack_into(special, 0, 0, 0xFFFF, 0)
        fcntl.ioctl(self._vcpu, SET_SREGS, bytes(special))
        registers = [0] * 18
        registers[RCX], registers[RIP], registers[RFLAGS] = iterations, START, 2
        fcntl.ioctl(self._vcpu, SET_REGS, REGS.pack(*registers))
        began = time.perf_counter()
        fcntl.ioctl(self._vcpu, RUN, 0)
        took = time.perf_counter() - began
        (reason,) = struct.unpack_from("<I", self._run, EXIT_REASON_OFFSET)
        if reason != EXIT_HLT:
            raise OSError(f"KVM_RUN ended with exit reason {reason} instead of {EXIT_HLT} (halt)")
        return took


def speed(device: str) -> float:
    """Millions of guest instructions per second.

    :raise OSError: when KVM refuses.
    """
    guest = Guest(device)
    iterations, took = FIRST_ITERATIONS, min(guest.loop(FIRST_ITERATIONS) for _ in range(FIRST_RUNS))
    if took < FIRST_ENOUGH_S:
        iterations, took = SECOND_ITERATIONS, guest.loop(SECOND_ITERATIONS)
    return INSTRUCTIONS_PER_ITERATION * iterations / took / 1e6


if __name__ == "__main__":
    try:
        sys.stdout.write(f"{speed(sys.argv[1]):.3f}\n")
    except OSError as error:
        sys.exit(str(error))
