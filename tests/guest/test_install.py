"""Programs of the host's in a guest."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from pytest_embedvm.guest import VM, NoProgram
from pytest_embedvm.guest import install as module
from pytest_embedvm.guest.image.packages import fetch
from pytest_embedvm.guest.image.programs import Program, which


def test_a_program_brings_its_libraries_and_runs(shared: VM) -> None:
    assert shared.install_program("setpriv") == "/usr/local/bin/setpriv"  # the project itself needs it on the host
    assert "util-linux" in shared.run(["/usr/local/bin/setpriv", "--version"]).text
    assert "/usr/local/bin" in shared.run("echo $PATH").text.strip().split(":")
    brought = shared.run("ls /opt/embedvm/setpriv").text.split()
    assert {"setpriv", "libc.so.6"} < set(brought)
    found = which("setpriv")
    assert found
    assert shared.install_program(str(found)) == "/usr/local/bin/setpriv"
    assert shared.run(["/usr/local/bin/setpriv", "--nnp", "echo", "its children are the guest's"]).returncode == 0


def test_what_is_nowhere_says_what_to_install(shared: VM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path))
    with pytest.raises(NoProgram, match=r"no frobnicate for the guest: .*Install it: apt-get install frob-server"):
        shared.install_program("frobnicate", package="frob-server")
    script = tmp_path / "script"
    script.write_text("#!/bin/sh")
    with pytest.raises(NoProgram, match=f"{script} cannot be put into the guest: it begins with"):
        shared.install_program(str(script))
    with pytest.raises(NoProgram, match="No such file or directory"):
        shared.install_program(str(tmp_path / "nothing"))


def test_a_static_program_needs_no_loader(tmp_path: Path) -> None:
    binary = tmp_path / "static"
    binary.write_bytes(b"binary")
    packed = io.BytesIO()
    module._pack(Program(binary, {}), "a name", packed)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        contents = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    assert contents == {
        "opt/embedvm/a name/a name": b"binary",
        "usr/local/bin/a name": b"#!/bin/sh\nexec '/opt/embedvm/a name/a name' \"$@\"\n",
    }


def test_two_that_fetch_the_same_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, cache = tmp_path / "tools", tmp_path / "cache"
    tools.mkdir()
    meanwhile = f'mkdir "$3" {cache}/thing && : >{cache}/thing/first'
    scripts = {"apt-cache": "", "apt-get": ": >a.deb", "dpkg-deb": meanwhile}
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    assert [path.name for path in fetch("thing", cache).iterdir()] == ["first"]
    assert [path.name for path in cache.iterdir()] == ["thing"]
