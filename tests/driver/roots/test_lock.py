"""A root's lock: whose it is, and that libvirt's own sees it."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_embedvm.driver.roots import lock as module
from pytest_embedvm.driver.roots.lock import HeldInPassing, Holder, Lock, holder
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.qemu.process import command_of

#: What libvirt does (virPidFileAcquirePath): a POSIX lock on the first byte, then its pid.
LIBVIRT = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
try:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
except OSError as error:
    print(error.strerror, flush=True)
else:
    os.write(file, str(os.getpid()).encode())
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def libvirt(path: Path) -> Iterator[tuple[int, str]]:
    """Another process that takes the lock as libvirt does: its id, and what it said."""
    words = [sys.executable, "-c", LIBVIRT, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield process.pid, process.stdout.readline().strip()
        process.communicate()


@pytest.fixture(params=["open file", "flock"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to lock: the second is for kernels without the first."""
    if request.param == "flock":
        monkeypatch.setattr(fcntl, "F_OFD_SETLK", 9999)
        monkeypatch.setattr(fcntl, "F_OFD_GETLK", 9999)
    return str(request.param)


def test_is_held_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "driver.pid"
    lock = Lock(path)
    assert holder(path) is None
    lock.acquire()
    lock.acquire()
    assert lock.held
    assert path.read_text() == f"{os.getpid()}\n"
    assert holder(path) == Holder(os.getpid(), command_of(os.getpid()))
    with pytest.raises(SystemFailure) as caught:
        Lock(path).acquire()
    assert caught.value.message.endswith(
        f"Resource temporarily unavailable (held by process {os.getpid()}: {command_of(os.getpid())})"
    )
    lock.release()
    lock.release()
    assert not lock.held
    assert not path.exists()
    assert holder(path) is None


def test_reading_its_file_does_not_give_it_away(tmp_path: Path) -> None:
    lock = Lock(tmp_path / "driver.pid")
    lock.acquire()
    lock.path.read_text()  # closing any descriptor of the file would end a lock that belongs to the process
    with libvirt(lock.path) as (_, said):
        assert said == "Resource temporarily unavailable"
    lock.release()


def test_libvirts_is_seen_and_its_process_named(tmp_path: Path) -> None:
    path = tmp_path / "driver.pid"
    with libvirt(path) as (pid, said):
        assert said == "held"
        assert holder(path) == Holder(pid, command_of(pid))
        with pytest.raises(SystemFailure, match=rf"held by process {pid}: .*-c import fcntl, os, sys"):
            Lock(path).acquire()
        assert path.read_text() == str(pid)
    Lock(path).acquire()


def test_whom_the_kernel_does_not_name_and_the_file_lies_about(tmp_path: Path) -> None:
    path = tmp_path / "driver.pid"
    lock = Lock(path)
    lock.acquire()
    with subprocess.Popen(["sleep", "60"]) as another:  # which does not have the file
        for written in ("", "no number", str(another.pid), "999999999"):
            path.write_text(written)
            assert holder(path) == Holder(None, "")
            with pytest.raises(HeldInPassing, match=r"\(held by a process that cannot be seen from here\)"):
                Lock(path).acquire()
        another.kill()
    lock.release()


def test_one_that_died_holds_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "driver.pid"
    path.write_text("1\n")
    assert holder(path) is None
    lock = Lock(path)
    lock.acquire()
    assert path.read_text() == f"{os.getpid()}\n"
    lock.release()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "driver.pid").symlink_to("victim")
    with pytest.raises(SystemFailure, match="Too many levels of symbolic links"):
        Lock(tmp_path / "driver.pid").acquire()
    assert (tmp_path / "victim").read_text() == "precious"


def _in_child(lock: Lock, results: multiprocessing.SimpleQueue[object]) -> None:
    results.put((lock.held, str(holder(lock.path))))
    lock.release()


def test_a_forked_child_neither_has_it_nor_gives_it_away(tmp_path: Path, kind: str) -> None:
    context = multiprocessing.get_context("fork")
    lock = Lock(tmp_path / "driver.pid")
    lock.acquire()
    results: multiprocessing.SimpleQueue[object] = context.SimpleQueue()
    child = context.Process(target=_in_child, args=(lock, results))
    child.start()
    child.join(30)
    assert results.get() == (False, f"process {os.getpid()}: {command_of(os.getpid())}")
    results.close()
    with pytest.raises(SystemFailure):
        Lock(lock.path).acquire()
    lock.release()
    assert module._held == set() or lock not in module._held


def test_its_shape_is_the_kernels() -> None:
    # <fcntl.h>: struct flock of 64-bit offsets
    assert module.FLOCK.size == struct.calcsize("hhqqi0q") == 32
