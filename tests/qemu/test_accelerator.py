from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.qemu import accelerator as module
from pytest_embedvm.qemu import firmware
from pytest_embedvm.qemu.accelerator import Accelerator, Outcome, Requested, absence, choose, run, run_firmware
from pytest_embedvm.qemu.binary import find_binary

DONE = firmware.EXIT_STATUS


def slow(seconds: float) -> Outcome:
    return Outcome(None, "", seconds)


class Runs:
    """Stands in for `run()`: hands out the outcomes given, in order, and keeps what was asked."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = list(outcomes)
        self.asked: list[tuple[Sequence[str], float]] = []

    async def __call__(self, argv: Sequence[str], timeout: float) -> Outcome:
        self.asked.append((argv, timeout))
        return self._outcomes.pop(0)

    @property
    def cpus(self) -> list[tuple[str, str]]:
        return [(argv[argv.index("-accel") + 1], argv[argv.index("-cpu") + 1]) for argv, _ in self.asked[1:]]


def measured(monkeypatch: pytest.MonkeyPatch, *outcomes: Outcome, requested: Requested = "auto") -> Accelerator:
    monkeypatch.setattr(module, "absence", lambda: None)
    monkeypatch.setattr(module, "run", Runs(*outcomes))
    return asyncio.run(choose(Path("/qemu"), requested))


def test_without_the_module(tmp_path: Path) -> None:
    assert "the kernel has no KVM" in str(absence(tmp_path / "kvm", tmp_path / "module"))


def test_without_the_device(tmp_path: Path) -> None:
    assert "is missing, though the kernel has KVM" in str(absence(tmp_path / "kvm", tmp_path))


def test_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch(mode=0)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    assert f"user {os.geteuid()} may not read and write {device}" in str(absence(device, tmp_path))


def test_absence_is_the_reason_for_tcg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "absence", lambda: "there is none")
    assert asyncio.run(choose(Path("/qemu"), "auto")) == Accelerator("tcg", "there is none", False, {})


def test_kvm_that_was_asked_for_and_is_not_usable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "absence", lambda: "there is none")
    with pytest.raises(OperationUnsupported) as caught:
        asyncio.run(choose(Path("/qemu"), "kvm"))
    assert str(caught.value) == "Operation not supported: KVM is not usable: there is none"


def test_tcg_that_was_asked_for_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run", Runs())
    found = asyncio.run(choose(Path("/nonexistent"), "tcg"))
    assert (found.name, found.reason, found.figures) == ("tcg", "TCG was asked for", {})


def test_a_slow_loop_ends_the_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, Outcome(0, "1.234", 0.1))
    assert found.name == "tcg"
    assert found.reason == "KVM runs 1.2 million instructions per second here, less than 50 million"
    assert found.figures == {"kvm_ioctl_mips": 1.234}


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(1, "Device busy", 0.1), "Device busy"),
        (slow(10), "no end within 10000 ms"),
        (Outcome(-11, "", 1), "-11"),
    ],
)
def test_a_loop_that_fails_or_hangs_means_tcg(outcome: Outcome, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, outcome)
    assert found.name == "tcg"
    assert found.reason.startswith("/dev/kvm runs no guest code: ")
    assert words in found.reason


FAST = Outcome(0, "3000", 0.1)


def test_kvm_is_taken_where_it_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, FAST, Outcome(DONE, "", 0.1), Outcome(DONE, "", 0.04), requested="kvm")
    assert (found.name, found.cpu_host_usable) == ("kvm", True)
    assert found.reason == "the test firmware takes 40 ms under KVM, 100 ms under TCG"
    assert found.figures == {"kvm_ioctl_mips": 3000, "tcg_firmware_ms": 100, "kvm_firmware_ms": 40}


def test_kvm_that_finishes_late_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, FAST, Outcome(DONE, "", 0.1), Outcome(DONE, "", 0.3))
    assert (found.name, found.cpu_host_usable) == ("tcg", False)
    assert "300 ms under KVM, 100 ms under TCG" in found.reason


def test_kvm_has_a_deadline_that_follows_from_tcgs_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "absence", lambda: None)
    runs = Runs(FAST, Outcome(DONE, "", 0.1), slow(1.2))
    monkeypatch.setattr(module, "run", runs)
    found = asyncio.run(choose(Path("/qemu"), "auto"))
    assert found.reason == "the test firmware does not run under KVM: no end within 1200 ms"
    assert runs.cpus == [("tcg", "max"), ("kvm", "host")]
    assert runs.asked[-1][1] == pytest.approx(1.2)


def test_a_host_cpu_that_aborts_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "absence", lambda: None)
    abort = Outcome(-6, "qemu: error: failed to set MSR 0x10a", 0.03)
    runs = Runs(FAST, Outcome(DONE, "", 0.1), abort, Outcome(DONE, "", 0.04))
    monkeypatch.setattr(module, "run", runs)
    found = asyncio.run(choose(Path("/qemu"), "auto"))
    assert (found.name, found.cpu_host_usable) == ("kvm", False)
    assert found.reason.endswith("; -cpu host does not run")
    assert runs.cpus == [("tcg", "max"), ("kvm", "host"), ("kvm", "qemu64")]


def test_any_abort_means_tcg(monkeypatch: pytest.MonkeyPatch) -> None:
    abort = Outcome(-6, "warning\nqemu: error: failed to set MSR 0x10a", 0.03)
    found = measured(monkeypatch, FAST, Outcome(DONE, "", 0.1), abort, abort)
    assert found.name == "tcg"
    assert found.reason == "the test firmware does not run under KVM: qemu: error: failed to set MSR 0x10a"


def test_a_binary_without_tcg_takes_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(monkeypatch, FAST, Outcome(1, "invalid accelerator tcg", 0.1), Outcome(DONE, "", 0.4))
    assert found.name == "kvm"


def test_json_there_and_back() -> None:
    one = Accelerator("kvm", "why", cpu_host_usable=True, figures={"kvm_ioctl_mips": 1.5})
    assert Accelerator.from_json(json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    "change",
    [{"name": "xen"}, {"reason": None}, {"cpu_host_usable": 1}, {"figures": {"x": "1"}}, {"figures": []}, {"new": 1}],
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    good = Accelerator("tcg", "why", cpu_host_usable=False, figures={"x": 1.0}).to_json()
    with pytest.raises(ValueError):
        Accelerator.from_json({**good, **change})


def test_the_image_starts_where_the_processor_does() -> None:
    image = firmware.timed_loop(7)
    assert len(image) == 64 * 1024
    assert image[0xFFF0] == 0xE9, "a near jump"
    after = 0xFFF3
    assert (after + int.from_bytes(image[0xFFF1:0xFFF3], "little")) % 0x10000 == 0, "to the image's start"
    assert image[:6] == b"\x66\xb9\x07\x00\x00\x00", "mov ecx, 7"


def test_the_firmware_finishes_under_tcg(tmp_path: Path) -> None:
    image = tmp_path / "firmware"
    image.write_bytes(firmware.timed_loop())
    outcome = asyncio.run(run_firmware(find_binary(), image, "tcg", "max", 60))
    assert outcome.finished, outcome.complaint


def test_a_firmware_that_loops_on_is_killed(tmp_path: Path) -> None:
    image = tmp_path / "firmware"
    image.write_bytes(b"\xeb\xfe" * 0x8000)  # jmp $
    outcome = asyncio.run(run_firmware(find_binary(), image, "tcg", "max", 0.3))
    assert outcome.status is None
    assert not outcome.finished
    assert "no end within" in outcome.complaint


def test_a_cpu_that_does_not_exist_is_quoted(tmp_path: Path) -> None:
    image = tmp_path / "firmware"
    image.write_bytes(firmware.timed_loop())
    outcome = asyncio.run(run_firmware(find_binary(), image, "tcg", "nosuch", 60))
    assert not outcome.finished
    assert "nosuch" in outcome.complaint


def test_a_hung_program_is_gone_after_its_deadline() -> None:
    outcome = asyncio.run(run(["sh", "-c", "echo $$; exec sleep 1000"], 1))
    assert outcome.status is None
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.output), 0)


def test_the_loop_program_says_what_the_kernel_refused() -> None:
    argv = [sys.executable, "-I", "-S", str(module._KVM_LOOP), "/dev/null"]
    outcome = asyncio.run(run(argv, 60))
    assert outcome.status == 1
    assert outcome.complaint == "[Errno 25] Inappropriate ioctl for device"


@pytest.mark.skipif(absence() is not None, reason=f"no KVM to measure: {absence()}")
def test_the_loop_program_measures_this_host() -> None:
    outcome = asyncio.run(run([sys.executable, "-I", "-S", str(module._KVM_LOOP), str(module.KVM_DEVICE)], 60))
    assert outcome.status == 0, outcome.complaint
    assert float(outcome.output) > 0


@pytest.mark.skipif(absence() is not None, reason=f"no KVM to measure: {absence()}")
def test_this_hosts_kvm_is_not_taken_unless_it_beats_tcg() -> None:
    """The second step alone, which a slow KVM must not survive either."""
    found = asyncio.run(module._compare(find_binary(), {}))
    faster = found.figures.get("kvm_firmware_ms", float("inf")) < found.figures["tcg_firmware_ms"]
    assert found.name == ("kvm" if faster else "tcg")
    if found.name == "tcg":
        assert "KVM" in found.reason
        assert not found.cpu_host_usable
