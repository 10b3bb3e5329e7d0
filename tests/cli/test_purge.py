"""`embedvm purge`: what it removes, and what it must leave."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.cli.main import main
from pytest_embedvm.driver.roots import index
from pytest_embedvm.embed import make_uri
from tests.cli.conftest import Boot

TINY = """<domain type='qemu'><name>tiny</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"""

#: Opens the root that it is told, and dies without a word; "test" makes it one that was made for a test.
KILLED = """
import os, signal, sys
from pathlib import Path
from pytest_embedvm import libvirt
from pytest_embedvm.driver.roots import index
from pytest_embedvm.embed import make_uri

if sys.argv[2] == "test":
    index.dispose(Path(sys.argv[1]))
connection = libvirt.open(make_uri(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def own_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is purged by default are the roots of this test alone."""
    probe = Path(index.default_cache_dir() / "capabilities")
    probe.mkdir(parents=True, exist_ok=True)
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    (cache / "capabilities").symlink_to(probe)
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(cache))


def killed(root: Path, kind: str = "test") -> Path:
    subprocess.run([sys.executable, "-c", KILLED, str(root), kind], check=False)
    assert (root / "run/qemu/driver.pid").exists()
    return root


def test_the_root_of_a_killed_test_goes_and_others_stay(
    tmp_path: Path, root: Path, connection: libvirt.virConnect, capsys: pytest.CaptureFixture[str]
) -> None:
    dead, users = killed(tmp_path / "dead"), killed(tmp_path / "users", "user")
    assert main(["purge"]) == 0
    said = capsys.readouterr()
    assert said.out == f"purged {dead}\n"
    assert said.err == f"left {users}: it was not made for a test; name it to purge it\n"
    assert not dead.exists()
    assert users.exists()
    assert connection.isAlive()
    assert main(["purge", str(users)]) == 0
    assert not users.exists()


def test_an_age_spares_what_is_younger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = killed(tmp_path / "dead")
    assert main(["purge", "--older-than", "1d"]) == 0
    assert main(["purge", "--older-than", "1d", str(dead)]) == 0
    assert f"left {dead}: nothing says" in capsys.readouterr().err
    assert dead.exists()
    assert main(["purge", "--older-than", "0s", str(dead)]) == 0
    assert not dead.exists()


def test_a_root_in_use_is_left_alone(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domain = boot()
    assert main(["purge", str(root)]) == 1
    assert "Failed to acquire pid file" in capsys.readouterr().err
    assert domain.isActive()


def test_a_machine_that_was_to_outlive_its_owner_keeps_its_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "kept"
    connection = libvirt.open(make_uri(root), keep_running=True)
    connection.createXML(TINY, 0)
    connection.close()
    try:
        assert main(["purge", str(root)]) == 1
        assert "VMs run in it that were to outlive their owner: tiny" in capsys.readouterr().err
        assert main(["ps"]) == 0
        said = capsys.readouterr().out
        assert "nobody has it open" in said
        assert re.search(r"^   1  tiny  running \(booted\)  pid \d+  .*  kept$", said, re.MULTILINE)
    finally:
        assert main(["stop", str(root)]) == 0
    assert main(["purge", str(root)]) == 0
    assert not root.exists()


def test_what_is_no_root_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["purge", str(tmp_path / "mine")]) == 1
    assert capsys.readouterr().err == f"embedvm purge: {tmp_path / 'mine'} is no root\n"
    assert (tmp_path / "mine").exists()


@pytest.mark.parametrize("age", ["", "1", "d", "-1d", "1w"])
def test_an_age_that_is_none(age: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["purge", f"--older-than={age}"])
    assert "write 90s, 30min, 12h or 7d" in capsys.readouterr().err
