from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from pytest_embedvm.errors import OperationTimeout, OperationUnsupported
from pytest_embedvm.qemu import cache as module
from pytest_embedvm.qemu.accelerator import Accelerator, Requested
from pytest_embedvm.qemu.binary import BinaryIdentity, find_binary
from pytest_embedvm.qemu.cache import HostIdentity, ProbeCache, default_cache_dir, host_capabilities
from pytest_embedvm.qemu.capabilities import Capabilities
from tests.fakes.host import capabilities
from tests.qemu.counting import CountingBinary

WORKERS = 16


class Probes:
    """Stands in for the probe, and counts."""

    def __init__(self) -> None:
        self.count = 0

    async def probe(self, binary: Path) -> Capabilities:
        self.count += 1
        await asyncio.sleep(0)
        return replace(capabilities(), binary=binary)

    async def choose(self, binary: Path, requested: Requested) -> Accelerator:
        return Accelerator("tcg", f"asked for {requested}", cpu_host_usable=False, figures={"kvm_ioctl_mips": 1.5})


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Probes:
    probes = Probes()
    monkeypatch.setattr(module, "probe", probes.probe)
    monkeypatch.setattr(module, "choose", probes.choose)
    return probes


def ask(directory: Path, requested: Requested = "auto") -> module.HostCapabilities:
    """Ask as a process would that has asked nothing before."""
    return asyncio.run(ProbeCache(directory).get(find_binary(), requested))


def stored(directory: Path) -> Path:
    (path,) = (directory / "capabilities").glob("*.json")
    return path


def test_the_second_process_reads_what_the_first_found(tmp_path: Path, probes: Probes) -> None:
    first = ask(tmp_path)
    assert ask(tmp_path) == first
    assert probes.count == 1


def test_a_process_reads_once(tmp_path: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(tmp_path)
    reads = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or read(path))

    async def main() -> None:
        first = await host_capabilities(find_binary(), tmp_path)
        assert await host_capabilities(find_binary(), tmp_path) is first

    asyncio.run(main())
    assert reads == [stored(tmp_path)]


def test_many_roots_at_the_same_time_probe_once(tmp_path: Path, probes: Probes) -> None:
    async def main() -> int:
        cache = ProbeCache(tmp_path)
        answers = await asyncio.gather(*(cache.get(find_binary(), "auto") for _ in range(50)))
        return len({id(answer) for answer in answers})

    assert asyncio.run(main()) == 1
    assert probes.count == 1


def test_what_a_killed_process_has_half_written_goes(tmp_path: Path, probes: Probes) -> None:
    ask(tmp_path)
    path = stored(tmp_path)
    half, other = (path.with_name(f".new-{name}-x") for name in (path.stem, "another"))
    for file in (half, other):
        file.write_text("{")
    path.unlink()
    ask(tmp_path)
    assert not half.exists()
    assert other.exists(), "somebody else may be writing it"


def test_files_are_private(tmp_path: Path, probes: Probes) -> None:
    ask(tmp_path / "cache")
    directory = tmp_path / "cache/capabilities"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory.parent)] == [0o700, 0o700]
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_tcg_that_is_asked_for_is_another_question(tmp_path: Path, probes: Probes) -> None:
    assert ask(tmp_path).accelerator.reason == "asked for auto"
    assert ask(tmp_path, "tcg").accelerator.reason == "asked for tcg"
    assert probes.count == 2


def test_kvm_that_is_not_usable_is_refused_from_the_cache_too(tmp_path: Path, probes: Probes) -> None:
    for _ in range(2):
        with pytest.raises(OperationUnsupported, match="KVM is not usable: asked for auto"):
            ask(tmp_path, "kvm")
    assert probes.count == 1


def rehashed(change: Callable[[dict[str, object]], object]) -> Callable[[bytes], bytes]:
    """A file that was written by somebody who meant it: its checksum is right."""

    def damage(data: bytes) -> bytes:
        content = json.loads(data)
        change(content)
        del content["sha256"]
        body = json.dumps(content, separators=(",", ":")).encode()[1:] + b"\n"
        return b'{"sha256":"%s",' % hashlib.sha256(body).hexdigest().encode() + body

    return damage


DAMAGES = {
    "empty": lambda _: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda _: b"\xff\xfe garbage",
    "one byte": lambda data: data.replace(b"guest_tso4", b"guest_tso5", 1),
    "a list": lambda _: b"[]",
    "deep": lambda _: b"[" * 100_000,
    "wrong type": rehashed(lambda content: content.update(content=[])),
    "wrong capabilities": rehashed(lambda content: content["content"].update(capabilities={"version": "7"})),  # type: ignore[attr-defined]
    "wrong accelerator": rehashed(lambda content: content["content"].update(accelerator={"name": "xen"})),  # type: ignore[attr-defined]
    "newer": rehashed(lambda content: content["key"].update(probe=[999])),  # type: ignore[attr-defined]
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_kept_reported_and_probed_anew(
    damage: Callable[[bytes], bytes], tmp_path: Path, probes: Probes, caplog: pytest.LogCaptureFixture
) -> None:
    good = ask(tmp_path)
    path = stored(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert ask(tmp_path) == good
    assert probes.count == 2
    assert path.read_bytes() == whole
    aside = path.with_name(f"{path.name}.unreadable")
    assert aside.read_bytes() == damage(whole)
    assert [(record.levelname, str(aside) in record.getMessage()) for record in caplog.records] == [("WARNING", True)]
    assert ask(tmp_path) == good
    assert probes.count == 2


def test_the_checksum_covers_what_the_test_above_writes(tmp_path: Path, probes: Probes) -> None:
    ask(tmp_path)
    path = stored(tmp_path)
    path.write_bytes(rehashed(dict.copy)(path.read_bytes()))
    ask(tmp_path)
    assert probes.count == 1


def test_what_cannot_be_set_aside_is_not_overwritten(
    tmp_path: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    good = ask(tmp_path)
    path = stored(tmp_path)
    path.write_bytes(b"precious")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _refuse)
        assert ask(tmp_path) == good
    assert path.read_bytes() == b"precious"
    assert "cannot be read: its checksum is wrong" in caplog.text


def _refuse(path: Path, target: Path) -> Path:
    raise PermissionError(path)


def test_a_directory_in_the_place_of_a_file_is_set_aside(tmp_path: Path, probes: Probes) -> None:
    question = module._Question(BinaryIdentity.of(find_binary()), "auto")
    path = tmp_path / "capabilities" / f"{question.name}.json"
    path.mkdir(parents=True)
    (path / "kept").touch()
    ask(tmp_path)
    ask(tmp_path)
    assert probes.count == 1
    assert (path.with_name(f"{path.name}.unreadable") / "kept").exists()


@pytest.mark.parametrize("blocked", ["directory", "lock"])
def test_a_cache_that_cannot_be_written_is_memory_with_one_warning(
    blocked: str,
    tmp_path: Path,
    probes: Probes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "_warned", False)
    if blocked == "directory":
        (tmp_path / "capabilities").write_text("a file where a directory should be")
    else:
        question = module._Question(BinaryIdentity.of(find_binary()), "auto")
        (tmp_path / "capabilities" / f"{question.name}.lock").mkdir(parents=True)

    async def main() -> None:
        cache = ProbeCache(tmp_path)
        first = await cache.get(find_binary(), "auto")
        assert await cache.get(find_binary(), "auto") is first
        await ProbeCache(tmp_path).get(find_binary(), "auto")

    asyncio.run(main())
    assert probes.count == 2, "one for each cache: the file does not keep it"
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert [record.name for record in warnings] == ["pytest_embedvm"]
    assert str(tmp_path) in warnings[0].getMessage()


HOLDER = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held_by_another(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """The lock of the question that `ask()` asks is in the hands of another process."""
    question = module._Question(BinaryIdentity.of(find_binary()), "auto")
    lock = directory / "capabilities" / f"{question.name}.lock"
    lock.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        try:
            yield holder
        finally:
            holder.kill()


def test_waiting_for_the_lock_has_an_end_and_names_the_holder(
    tmp_path: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(module, "LOCK_SLICE_S", 0.05)
    with held_by_another(tmp_path) as holder, pytest.raises(OperationTimeout) as caught:
        ask(tmp_path)
    assert f"by process {holder.pid} ({sys.executable}" in str(caught.value)
    assert probes.count == 0


def test_a_holder_that_is_killed_lets_the_next_one_probe(tmp_path: Path, probes: Probes) -> None:
    async def main() -> None:
        with held_by_another(tmp_path) as holder:
            waiting = asyncio.create_task(ProbeCache(tmp_path).get(find_binary(), "auto"))
            for _ in range(100):
                await asyncio.sleep(0)  # the loop goes on while the lock is awaited
            assert not waiting.done()
            holder.kill()
            await waiting

    asyncio.run(main())
    assert probes.count == 1


def test_a_cancelled_wait_does_not_keep_the_lock(
    tmp_path: Path, probes: Probes, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    make = filelock.FileLock

    def make_and_keep(*args: object, **options: object) -> filelock.BaseFileLock:
        made.append(make(*args, **options))  # else the garbage collector would release it
        return made[-1]

    monkeypatch.setattr(filelock, "FileLock", make_and_keep)

    async def main() -> None:
        with held_by_another(tmp_path) as holder:
            waiting = asyncio.create_task(ProbeCache(tmp_path).get(find_binary(), "auto"))
            for _ in range(100):
                await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            holder.kill()
        await asyncio.get_running_loop().shutdown_default_executor()

    asyncio.run(main())
    assert [lock.is_locked for lock in made] == [False]
    assert probes.count == 0


WORKER = """
import asyncio, hashlib, json, sys
from pathlib import Path
from pytest_embedvm.qemu.cache import host_capabilities

print("ready", flush=True)
sys.stdin.readline()
answer = asyncio.run(host_capabilities(Path(sys.argv[1]), Path(sys.argv[2]), "tcg"))
text = json.dumps([answer.capabilities.to_json(), answer.accelerator.to_json()])
print(hashlib.sha256(text.encode()).hexdigest(), flush=True)
"""


def test_sixteen_processes_that_start_cold_make_one_probe(tmp_path: Path) -> None:
    qemu = CountingBinary(tmp_path)
    command = [sys.executable, "-c", WORKER, str(qemu.path), str(tmp_path / "cache")]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
    ]
    try:
        for worker in workers:
            assert worker.stdout
            assert worker.stdout.readline() == "ready\n"
        answers = []
        for worker in workers:
            assert worker.stdin
            worker.stdin.write("go\n")
            worker.stdin.flush()
        answers = [worker.communicate(timeout=60)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    assert len(answers) == WORKERS
    assert len(set(answers)) == 1
    assert len(answers[0]) == 65
    assert qemu.starts == 1


def test_another_binary_is_another_question(tmp_path: Path, probes: Probes) -> None:
    qemu = CountingBinary(tmp_path)
    cache = ProbeCache(tmp_path)
    asyncio.run(cache.get(qemu.path, "auto"))
    os.utime(qemu.path, ns=(1, 1))
    asyncio.run(cache.get(qemu.path, "auto"))
    assert probes.count == 2


def host(tmp_path: Path) -> HostIdentity:
    return HostIdentity.of(tmp_path / "kvm", tmp_path / "proc", tmp_path / "sys")


@pytest.fixture
def fake_host(tmp_path: Path) -> Path:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/module/kvm_amd/parameters").mkdir(parents=True)
    (tmp_path / "sys/module/kvm_amd/parameters/nested").write_text("1\n")
    (tmp_path / "proc/cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: A\nmicrocode\t: 0x1\ncpu MHz\t: 1\n\nrest: 1\n"
    )
    (tmp_path / "kvm").touch(mode=0o600)
    return tmp_path


def test_the_host_is_the_same_a_moment_later(fake_host: Path) -> None:
    before = host(fake_host)
    cpuinfo = fake_host / "proc/cpuinfo"
    cpuinfo.write_text(cpuinfo.read_text().replace("cpu MHz\t: 1", "cpu MHz\t: 2").replace("rest: 1", "rest: 2"))
    assert host(fake_host) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "proc/cpuinfo").write_text("model name\t: B\nmicrocode\t: 0x1\n"),
        lambda root: (root / "proc/cpuinfo").write_text("model name\t: A\nmicrocode\t: 0x2\n"),
        lambda root: (root / "sys/module/kvm_amd/parameters/nested").write_text("0\n"),
        lambda root: (root / "sys/module/kvm_amd/parameters/npt").write_text("1\n"),
        lambda root: (root / "kvm").unlink(),
        lambda root: (root / "kvm").chmod(0o666),
    ],
    ids=["model", "microcode", "parameter", "new parameter", "no device", "permissions"],
)
def test_what_can_change_the_answer_makes_it_another_host(change: Callable[[Path], object], fake_host: Path) -> None:
    before = host(fake_host)
    change(fake_host)
    assert host(fake_host) != before


def test_the_directory_of_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "mine"))
    assert default_cache_dir() == tmp_path / "mine"
    monkeypatch.delenv("EMBEDVM_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "pytest-embedvm"
