from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.build import build_guest
from pytest_embedvm.guest.image.manifest import GuestImage
from pytest_embedvm.guest.image.prune import KEPT
from tests.guest.image.test_vmlinux import elf

HOLDER = """
import sys
from pathlib import Path
from pytest_embedvm.guest.image.build import build_guest
build_guest(Path(sys.argv[1]), kernel=Path(sys.argv[2]))
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EMBEDVM_KERNEL", raising=False)
    monkeypatch.delenv("EMBEDVM_KERNEL_MODULES", raising=False)
    return tmp_path / "cache"


def kernel(number: int, tmp_path: Path) -> Path:
    """One of many kernels of a few bytes."""
    path = tmp_path / f"vmlinux-{number}"
    if not path.exists():
        path.write_bytes(elf((b"Xen", 18)) + bytes([number]))
    return path


def in_another_process(number: int, cache: Path, tmp_path: Path) -> subprocess.Popen[bytes]:
    """A process that was given the guest of kernel NUMBER, and lives."""
    words = [sys.executable, "-c", HOLDER, str(cache), str(kernel(number, tmp_path))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def guests(cache: Path) -> set[str]:
    return {path.name for path in (cache / "guest").iterdir() if path.is_dir()}


def name(image: GuestImage) -> str:
    return image.kernel.parent.name


def test_only_the_most_recently_used_stay(cache: Path, tmp_path: Path) -> None:
    for number in range(KEPT):
        in_another_process(number, cache, tmp_path).communicate()
    in_another_process(0, cache, tmp_path).communicate()  # it was made first, and is used last but one
    last = build_guest(cache, kernel=kernel(KEPT, tmp_path))
    assert len(guests(cache)) == KEPT
    assert len(list((cache / "guest").glob("*.json"))) == KEPT
    before = guests(cache)
    first = build_guest(cache, kernel=kernel(0, tmp_path))
    assert guests(cache) == before >= {name(first), name(last)}


def test_one_that_a_living_process_was_given_stays_until_it_is_killed(cache: Path, tmp_path: Path) -> None:
    holder = in_another_process(0, cache, tmp_path)
    try:
        (held,) = guests(cache)
        for number in range(1, KEPT + 2):
            in_another_process(number, cache, tmp_path).communicate()
        assert held in guests(cache)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    in_another_process(KEPT + 2, cache, tmp_path).communicate()
    assert held not in guests(cache)


def test_what_a_killed_process_has_half_made_goes(cache: Path, tmp_path: Path) -> None:
    for half in (cache / "guest/.new-one", cache / "packages/.fetch-two"):
        half.mkdir(parents=True)
        (half / "kernel").write_bytes(b"half")
    (cache / "guest/.new-three").write_text("{")
    image = build_guest(cache, kernel=kernel(0, tmp_path))
    assert guests(cache) == {name(image)}
    assert list((cache / "guest").glob(".new*")) == list((cache / "packages").iterdir()) == []


def test_a_guest_whose_cache_was_removed_is_held_anew(cache: Path, tmp_path: Path) -> None:
    before = build_guest(cache, kernel=kernel(0, tmp_path))
    shutil.rmtree(cache)
    assert build_guest(cache, kernel=kernel(0, tmp_path)) == before
    for number in range(1, KEPT + 2):
        in_another_process(number, cache, tmp_path).communicate()
    assert before.kernel.exists()
