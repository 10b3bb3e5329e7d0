"""A root that real libvirt has open, and one of ours that it wants."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from tests.live.conftest import Open, uri

#: The system's own Python has the system's libvirt-python; it needs no daemon for qemu:///embed.
PYTHON = "/usr/bin/python3"

THEIRS = """
import sys, threading
import libvirt
libvirt.registerErrorHandler(lambda *_: None, None)
libvirt.virEventRegisterDefaultImpl()
def turn():
    while True:
        libvirt.virEventRunDefaultImpl()
threading.Thread(target=turn, daemon=True).start()
try:
    connection = libvirt.open(sys.argv[1])
except libvirt.libvirtError as error:
    print(f"{error.get_error_code()} {error}", flush=True)
else:
    print("open", flush=True)
    sys.stdin.read()
    connection.close()
"""


@contextlib.contextmanager
def theirs(root: Path) -> Iterator[tuple[int, str]]:
    """Real libvirt opens ROOT: its process, and what it said."""
    words = [PYTHON, "-c", THEIRS, uri(root)]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout
        try:
            yield process.pid, process.stdout.readline().strip()
        finally:
            process.communicate(timeout=60)


def _has_libvirt() -> bool:
    probe = "import libvirt; libvirt.virEventRegisterDefaultImpl()"
    found = Path("/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_qemu.so").exists()
    return found and subprocess.run([PYTHON, "-c", probe], check=False, capture_output=True).returncode == 0


# As an ordinary user libvirt starts a log daemon that outlives the run.
pytestmark = pytest.mark.skipif(os.getuid() != 0 or not _has_libvirt(), reason="needs root, and libvirt's QEMU driver")


def test_libvirt_does_not_get_ours(connect: Open, tmp_path: Path) -> None:
    connection = connect()
    with theirs(tmp_path / "root") as (_, said):
        pid_file = tmp_path / "root/run/qemu/driver.pid"
        assert said == (
            f"{libvirt.VIR_ERR_SYSTEM_ERROR} Failed to acquire pid file '{pid_file}': Resource temporarily unavailable"
        )
    assert connection.listAllDomains() == []
    assert pid_file.read_text() == f"{os.getpid()}\n"


def test_ours_does_not_get_libvirts(connect: Open, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("root")
    with theirs(tmp_path / "root") as (pid, said):
        assert said == "open"
        for spelling in ("root", "root/", "link", "./link/../root/"):
            with pytest.raises(libvirt.libvirtError) as caught:
                connect(spelling)
            assert caught.value.get_error_code() == libvirt.VIR_ERR_SYSTEM_ERROR
            assert f"(held by process {pid}: {PYTHON} -c import sys, threading import libvirt" in str(caught.value)
        before = sorted(str(path) for path in (tmp_path / "root").rglob("*"))
    connect().close()
    assert not [path for path in before if "embedvm" in path]


def test_the_second_of_ours_is_told_whom_to_ask(connect: Open, tmp_path: Path) -> None:
    connect()
    code = "import sys; from pytest_embedvm import libvirt; libvirt.open(sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, uri(tmp_path / "root")],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert f"(held by process {os.getpid()}: " in done.stderr.splitlines()[-1]
