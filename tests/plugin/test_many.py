"""many: a suite with a VM each on four workers asks QEMU once, makes one template, and leaves nothing behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.plugin.conftest import environments
from tests.plugin.test_templates import private_cache
from tests.plugin.test_workers import COUNTING

pytest.importorskip("xdist")

TESTS = 24


def test_many_tests_on_four_workers_probe_once_and_make_one_template(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, program = pytester.path / "starts", pytester.mkdir("bin") / "qemu-system-x86_64"
    program.write_text(COUNTING.format(log=starts, qemu=shutil.which(program.name)))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    cache, base = private_cache(pytester.path / "cache"), pytester.path / "base"
    pytester.makepyfile(
        f"""
        import pytest

        @pytest.mark.parametrize("number", range({TESTS}))
        def test_vm(vm, number):
            assert vm.run(["cat", "/tmp/number"], check=False).returncode == 1
            vm.write_text("/tmp/number", str(number))
            assert vm.read_text("/tmp/number") == str(number)
            assert vm.origin.kind == "clone", str(vm.origin)
        """
    )
    options = ("--embedvm", "-n", "4", "--embedvm-cache-dir", str(cache), "--basetemp", str(base))
    pytester.runpytest_subprocess(*options).assert_outcomes(passed=TESTS)
    words = starts.read_text().splitlines()
    assert sum("-machine none" in line for line in words) == 1
    assert sum('"share":true' in line for line in words) == 1
    # Each test's clone is its own; one more may have been made ahead for each worker, and for nobody.
    assert TESTS <= sum('"share":false' in line for line in words) <= TESTS + 4
    assert list(environments(str(pytester.path / "cache"))) == []
    assert [path for pattern in ("**/*.pid", "**/*.sock") for path in base.glob(pattern)] == []
    assert [path for path in cache.rglob("*") if path.name.startswith(".new-")] == []
    assert len(list(Path(cache, "templates").glob("*/ram"))) == 1
