"""script/bootstrap on a machine that lacks everything: it installs nothing it may not, and says what to do."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
TOOLS = ["cat", "cksum", "dirname", "echo", "grep", "sh", "xargs"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout, and beside it bin/: all the machine has, for a user who is not root."""
    bare = tmp_path / "bin"
    bare.mkdir()
    for tool in TOOLS:
        where = shutil.which(tool)
        assert where, f"{tool} belongs to every system"
        (bare / tool).symlink_to(where)
    (bare / "id").write_text("#!/bin/sh\necho 1000\n")
    (bare / "id").chmod(0o755)
    root = tmp_path / "check out"
    (root / "script").mkdir(parents=True)
    shutil.copy(PROJECT / "script/bootstrap", root / "script/bootstrap")
    shutil.copy(PROJECT / "pyproject.toml", root / "pyproject.toml")
    return root


def bootstrap(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", checkout / "script/bootstrap"],
        env={"PATH": str(checkout.parent / "bin"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_names_what_is_missing_and_the_way_around(checkout: Path) -> None:
    done = bootstrap(checkout)
    assert done.returncode == 1
    assert "missing: qemu-system-x86_64 qemu-img busybox (static) python3" in done.stderr
    assert "EMBEDVM_BOOTSTRAP_SYSTEM=0" in done.stderr
    assert not (checkout / ".venv").exists()


def test_without_the_system_only_python_is_asked_for(checkout: Path) -> None:
    done = bootstrap(checkout, EMBEDVM_BOOTSTRAP_SYSTEM="0")
    assert done.returncode == 1
    assert "Python 3.11 or later" in done.stderr
    assert "qemu" not in done.stderr


def test_tells_root_the_packages_by_their_names(checkout: Path) -> None:
    apt = checkout.parent / "bin" / "apt-get"
    apt.write_text("#!/bin/sh\nexit 100\n")
    apt.chmod(0o755)
    done = bootstrap(checkout)
    assert "apt-get install --no-install-recommends qemu-system-x86 qemu-utils busybox-static python3" in done.stderr


@pytest.mark.parametrize("script", ["script/bootstrap", "script/demo", "script/test", ".ci/run"])
def test_is_executable(script: str) -> None:
    assert (PROJECT / script).stat().st_mode & 0o111 == 0o111
