"""Nothing outside its root is written or connected to, but the shared cache and what the domain's XML names."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live import trace
from tests.live.trace import Touch

#: What every program may open, and QEMU's pseudo terminals and accelerator. They are devices: nothing is left in them.
DEVICES = {"/dev/null", "/dev/ptmx", "/dev/kvm"}


def _traces() -> bool:
    if not shutil.which("strace"):
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], check=False, capture_output=True).returncode == 0


pytestmark = pytest.mark.skipif(not _traces(), reason="strace is not there, or may not trace")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path / "home"),
        "EMBEDVM_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(sys.path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def test_a_whole_life(tmp_path: Path, environment: dict[str, str]) -> None:
    named, root, output = tmp_path / "named", tmp_path / "root", tmp_path / "trace"
    named.mkdir()
    (named / "disk.img").write_bytes(bytes(1 << 20))
    firmware = ["efi"] if Path("/usr/share/OVMF").exists() else []
    program = Path(__file__).with_name("traced.py")
    done = trace.run([sys.executable, str(program), str(root), str(named), *firmware], output, environment)
    assert (done.returncode, done.stderr) == (0, "")
    touched = set(trace.touches(output))
    # The trace sees the driver's files, and QEMU's.
    assert Touch("openat", f"{named}/disk.img") in touched
    assert Touch("bind", f"{named}/serial.sock") in touched
    assert {Touch("openat", f"{root}/log/qemu/{name}.log") for name in ("kept", "transient")} <= touched
    assert [touch for touch in touched if touch.place.startswith(f"{tmp_path}/cache/")]
    allowed = (f"{root}/", f"{tmp_path}/cache/", "/dev/pts/")
    exactly = {str(root), f"{tmp_path}/cache", f"{named}/disk.img", f"{named}/serial.sock", *DEVICES}
    outside = {touch for touch in touched if touch.place not in exactly and not touch.place.startswith(allowed)}
    assert outside == set()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "named", "root", "trace"]
    assert [path.name for path in named.iterdir()] == ["disk.img"]


ESCAPES = """
import os, pathlib, socket, subprocess, sys
place = pathlib.Path(sys.argv[1])
(place / "made").mkdir()
os.rename(place / "made", place / "renamed")
directory = os.open(place, os.O_PATH)
os.open("relative", os.O_WRONLY | os.O_CREAT, dir_fd=directory)
subprocess.run(["sh", "-c", "echo > 'in a child'"], cwd=place)
with socket.socket(socket.AF_UNIX) as one:
    one.bind(f"/proc/self/fd/{directory}/socket")
with socket.socket(socket.AF_UNIX) as one:
    one.connect_ex(str(place / "nowhere"))
with socket.socket() as one:
    one.connect_ex(("127.0.0.1", int(sys.argv[2])))
"""


def test_the_trace_sees_what_it_is_for(tmp_path: Path, environment: dict[str, str]) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        done = trace.run([sys.executable, "-c", ESCAPES, str(place), port], tmp_path / "trace", environment)
    assert (done.returncode, done.stderr) == (0, "")
    wanted = {("bind", "socket"), ("connect", "nowhere"), ("openat", "relative"), ("openat", "in a child")}
    seen = {(touch.call, touch.place) for touch in trace.touches(tmp_path / "trace")}
    assert {(call, f"{place}/{name}") for call, name in wanted} <= seen
    assert ("connect", "AF_INET") in seen
    assert {place for call, place in seen if call.startswith("rename")} == {f"{place}/made", f"{place}/renamed"}
