"""What killed sessions left goes at the start of a later one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pytest_embedvm.plugin import dead_roots
from tests.driver.restart.test_reaper import orphan

KILLED = """
    import os, signal

    def test_dies(embedvm_conn, embedvm_root):
        print(f"root: {embedvm_root}", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""

PASSES = "def test_passes(): pass"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _age(cache: Path, days: float) -> None:
    moment = time.time() - days * dead_roots.DAY_S
    for file in (cache / "roots").iterdir():
        os.utime(file, (moment, moment))


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["alone", "xdist"])
def test_a_killed_sessions_root_goes_a_day_later(
    pytester: pytest.Pytester, cache: Path, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_killed=KILLED, test_later=PASSES)
    words = [
        sys.executable,
        "-m",
        "pytest",
        "--embedvm",
        "-s",
        "-p",
        "no:randomly",
        "test_killed.py",
        "--basetemp=left",
    ]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    (line,) = (line for line in done.stdout.splitlines() if "root: " in line)
    root = Path(line.partition("root: ")[2])
    assert root.is_dir()
    pytester.runpytest_subprocess("--embedvm", "test_later.py", *workers).assert_outcomes(passed=1)
    assert root.is_dir(), "it is not a day old"
    _age(cache, 1.1)
    pytester.runpytest_subprocess("--embedvm", "test_later.py", *workers).assert_outcomes(passed=1)
    assert not root.exists()
    assert list((cache / "roots").iterdir()) == []


def test_without_the_option_nothing_is_looked_at(pytester: pytest.Pytester, cache: Path) -> None:
    (cache / "roots").mkdir(parents=True)
    (cache / "roots/damaged.json").write_text("{")
    _age(cache, 2)
    pytester.makepyfile(PASSES)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert [file.name for file in (cache / "roots").iterdir()] == ["damaged.json"]


def test_the_driver_is_not_imported_for_a_young_index(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from pytest_embedvm.plugin import dead_roots
        dead_roots.purge(Path(sys.argv[1]))
        print("pytest_embedvm.driver.roots.purge" in sys.modules)
    """
    (tmp_path / "roots").mkdir()
    for expected in ("False", "True"):
        code_lines = "\n".join(line.strip() for line in code.splitlines())
        done = subprocess.run(
            [sys.executable, "-c", code_lines, str(tmp_path)], check=True, capture_output=True, text=True
        )
        assert done.stdout.strip() == expected
        (tmp_path / "roots/old.json").write_text("{")
        _age(tmp_path, 2)


def test_a_vm_that_outlived_its_session_is_ended(pytester: pytest.Pytester, cache: Path) -> None:
    record = orphan(pytester.path / "root")
    pytester.makepyfile(PASSES)
    pytester.runpytest_subprocess().assert_outcomes(passed=1)
    assert record.alive, "nobody asked for machines"
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=1)
    assert not record.alive


def test_the_driver_is_not_imported_where_nothing_can_run(tmp_path: Path) -> None:
    (tmp_path / "roots").mkdir()
    (tmp_path / "root/run/qemu").mkdir(parents=True)
    (tmp_path / "roots/a.json").write_text(json.dumps({"path": str(tmp_path / "root")}))
    (tmp_path / "roots/b.json").write_text("{")
    code = (
        "import sys; from pathlib import Path; from pytest_embedvm.plugin import dead_roots\n"
        "dead_roots.reap(Path(sys.argv[1])); print('pytest_embedvm.driver.restart.reaper' in sys.modules)"
    )
    for pid, expected in ((0, "False"), (2**22 + 1, "False"), (os.getpid(), "True")):
        (tmp_path / "root/run/qemu/a.xml").write_text(f"<domstatus state='running' reason='booted' pid='{pid}'>")
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True)
        assert done.stdout.strip() == expected
