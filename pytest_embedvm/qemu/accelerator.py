"""Choosing KVM or TCG by running guest code and timing it: that /dev/kvm opens proves nothing."""

from __future__ import annotations

import asyncio
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

from pytest_embedvm.errors import InvalidArgument, OperationUnsupported
from pytest_embedvm.files import memory_file
from pytest_embedvm.qemu import firmware
from pytest_embedvm.qemu.process import Process

Requested = Literal["auto", "kvm", "tcg"]
REQUESTS: Final[tuple[Requested, ...]] = get_args(Requested)
#: The environment's word for the whole process.
VARIABLE: Final = "EMBEDVM_ACCEL"

KVM_DEVICE: Final = Path("/dev/kvm")
KVM_MODULE: Final = Path("/sys/module/kvm")

#: Run as a program of its own, never imported.
_KVM_LOOP: Final = Path(__file__).with_name("kvm_loop.py")

#: TCG does about 600 MIPS; KVM that does less than this traps or interprets every instruction.
WORTHWHILE_MIPS: Final = 50.0
LOOP_TIMEOUT_S: Final = 10.0
FIRMWARE_TIMEOUT_S: Final = 30.0
#: KVM gets this much on top of TCG's own time before it counts as hung.
GRACE_S: Final = 1.0


@dataclass(frozen=True)
class Accelerator:
    """What runs guest code, and the measurements that decided it.

    `reason` is one sentence for people. `cpu_host_usable` tells whether `-cpu host` was seen to run.
    `figures` are named with their unit: `kvm_ioctl_mips`, `tcg_firmware_ms`, `kvm_firmware_ms`; what was not
    measured, or did not finish, is not among them.
    """

    name: Literal["kvm", "tcg"]
    reason: str
    cpu_host_usable: bool
    figures: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "figures": dict(self.figures)}

    @classmethod
    def from_json(cls, data: object) -> Accelerator:
        """The inverse of `to_json()`.

        :raise ValueError: when DATA is anything else.
        """
        match data:
            case {
                "name": "kvm" | "tcg" as name,
                "reason": str(reason),
                "cpu_host_usable": bool(usable),
                "figures": dict(figures),
                **rest,
            } if not rest and all(type(figure) is float for figure in figures.values()):
                return cls(name, reason, usable, MappingProxyType(figures))
        raise ValueError(f"{data!r:.80} is no accelerator")


class Outcome(NamedTuple):
    """One program's run: its exit status (None: killed at the deadline), what it said, and how long it took."""

    status: int | None
    output: str
    seconds: float

    @property
    def finished(self) -> bool:
        return self.status == firmware.EXIT_STATUS

    @property
    def complaint(self) -> str:
        """Why it did not finish, in a few words."""
        if self.status is None:
            return f"no end within {self.seconds * 1000:.0f} ms"
        return self.output.splitlines()[-1] if self.output else f"exit status {self.status}"


async def choose(binary: Path, requested: Requested) -> Accelerator:
    """The accelerator for guests of BINARY; must run on the loop thread.

    `tcg` is taken at its word and measures nothing; `auto` takes KVM where it is seen to be faster.

    :raise OperationUnsupported: when `kvm` is requested and is not usable, with the reason.
    """
    if requested == "tcg":
        return _tcg("TCG was asked for")
    return require(await _measure(binary), requested)


def require(accelerator: Accelerator, requested: Requested) -> Accelerator:
    """ACCELERATOR, if it is what was requested.

    :raise OperationUnsupported: when `kvm` is requested and was found not to be usable.
    """
    if requested == "kvm" and accelerator.name != "kvm":
        raise OperationUnsupported(f"KVM is not usable: {accelerator.reason}")
    return accelerator


def requested() -> Requested:
    """What the environment's EMBEDVM_ACCEL asks for; `auto` where it says nothing.

    :raise InvalidArgument: when it says something else.
    """
    word = os.environ.get(VARIABLE, "auto")
    for known in REQUESTS:
        if word == known:
            return known
    raise InvalidArgument(f"{VARIABLE}={word}: it may be {', '.join(REQUESTS)}")


def absence(device: Path = KVM_DEVICE, module: Path = KVM_MODULE) -> str | None:
    """Why there is no KVM to measure; None when there is."""
    if not device.exists():
        if not module.exists():
            return f"the kernel has no KVM ({device} and {module} are missing)"
        return f"{device} is missing, though the kernel has KVM (a container without the device?)"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"user {os.geteuid()} may not read and write {device} (is in group kvm?)"
    if platform.machine() != "x86_64":
        return f"KVM is not measured on {platform.machine()} hosts"
    return None


async def _measure(binary: Path) -> Accelerator:
    if reason := absence():
        return _tcg(reason)
    loop = await run([sys.executable, "-I", "-S", str(_KVM_LOOP), str(KVM_DEVICE)], LOOP_TIMEOUT_S)
    if loop.status != 0:
        return _tcg(f"{KVM_DEVICE} runs no guest code: {loop.complaint}")
    mips = float(loop.output.splitlines()[-1])
    figures = {"kvm_ioctl_mips": mips}
    if mips < WORTHWHILE_MIPS:
        return _tcg(
            f"KVM runs {mips:.1f} million instructions per second here, less than {WORTHWHILE_MIPS:.0f} million",
            figures,
        )
    return await _compare(binary, figures)


async def _compare(binary: Path, figures: Mapping[str, float]) -> Accelerator:
    """The second step: the same firmware under both accelerators, KVM with the host's CPU if it can."""
    with memory_file("embedvm-loop") as image:
        image.write(firmware.timed_loop())
        image.flush()
        path = Path(f"/proc/{os.getpid()}/fd/{image.fileno()}")
        tcg = await run_firmware(binary, path, "tcg", "max", FIRMWARE_TIMEOUT_S)
        deadline = 2 * tcg.seconds + GRACE_S
        kvm = await run_firmware(binary, path, "kvm", "host", deadline)
        host_usable = kvm.finished
        if not host_usable and kvm.status is not None:  # it aborted: some hosts cannot pass their CPU on
            kvm = await run_firmware(binary, path, "kvm", "qemu64", deadline)
    return _verdict(tcg, kvm, host_usable, figures)


def _verdict(tcg: Outcome, kvm: Outcome, host_usable: bool, figures: Mapping[str, float]) -> Accelerator:
    finished = {f"{name}_firmware_ms": o.seconds * 1000 for name, o in (("tcg", tcg), ("kvm", kvm)) if o.finished}
    figures = {**figures, **finished}
    if not kvm.finished:
        return _tcg(f"the test firmware does not run under KVM: {kvm.complaint}", figures)
    times = f"the test firmware takes {kvm.seconds * 1000:.0f} ms under KVM"
    if not tcg.finished:
        return Accelerator("kvm", f"{times} and does not run under TCG", host_usable, figures)
    times += f", {tcg.seconds * 1000:.0f} ms under TCG"
    if kvm.seconds >= tcg.seconds:
        return _tcg(times, figures)
    return Accelerator("kvm", times if host_usable else f"{times}; -cpu host does not run", host_usable, figures)


def _tcg(reason: str, figures: Mapping[str, float] | None = None) -> Accelerator:
    return Accelerator("tcg", reason, cpu_host_usable=False, figures=MappingProxyType(dict(figures or {})))


async def run_firmware(binary: Path, image: Path, accel: str, cpu: str, timeout: float) -> Outcome:
    """Boot the firmware IMAGE under ACCEL with CPU; it has `finished` when the loop ran to its end.

    :param timeout: seconds until QEMU is killed.
    """
    argv = [
        *(str(binary), "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-machine", "q35", "-accel", accel, "-cpu", cpu, "-m", "16M", "-bios", str(image)),
        *("-device", f"isa-debug-exit,iobase={firmware.EXIT_PORT:#x},iosize=1"),
    ]
    return await run(argv, timeout)


async def run(argv: Sequence[str], timeout: float) -> Outcome:
    """Run ARGV to its end or for TIMEOUT seconds, whichever is first; it is gone afterwards in every case."""
    with memory_file("embedvm-probe") as output:
        began = time.perf_counter()
        process = Process.spawn(argv, output=output)
        try:
            async with asyncio.timeout(timeout):
                status: int | None = await process.wait()
        except TimeoutError:
            status = None
        finally:
            seconds = time.perf_counter() - began
            await process.kill()
        output.seek(0)
        return Outcome(status, output.read().decode(errors="replace").strip(), seconds)
