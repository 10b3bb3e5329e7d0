"""hooks: on and off, what is printed, what is loaded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FIXTURES = ["vm", "vm_factory", "embedvm_root", "embedvm_conn", "embedvm_conn_factory", "embedvm_domain",
            "embedvm_domain_xml", "embedvm_domain_args"]  # fmt: skip

HEAVY = ["lxml", "qemu.qmp", "filelock", "pytest_embedvm.driver", "pytest_embedvm.constants"]


@pytest.mark.parametrize("fixture", FIXTURES)
def test_without_the_option_tests_are_skipped_with_a_reason_that_names_it(
    pytester: pytest.Pytester, fixture: str
) -> None:
    pytester.makepyfile(f"def test_it({fixture}): raise SystemExit('it ran')\ndef test_other(): pass")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1, passed=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs real virtual machines: run pytest with --embedvm*"])


def test_a_fixture_behind_a_users_fixture_counts(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def server(vm): raise SystemExit('it ran')

        def test_it(server): pass
        """
    )
    pytester.runpytest().assert_outcomes(skipped=1)


def test_a_fixture_asked_for_at_run_time_skips_too(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(request): request.getfixturevalue('embedvm_conn')")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*--embedvm*"])


def test_the_ini_file_turns_it_on(pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]\nembedvm = true")
    pytester.makepyfile("def test_it(embedvm_root): assert embedvm_root.stat().st_mode & 0o777 == 0o700")
    pytester.runpytest().assert_outcomes(passed=1)


def test_the_header_says_what_runs_guest_code_and_why(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("--embedvm")
    result.stdout.re_match_lines([r"embedvm: QEMU \d+\.\d+\.\d+, (TCG|KVM): \w.{10,}"])


def test_without_the_option_the_header_says_nothing(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest()
    result.stdout.no_fnmatch_line("embedvm:*")


def test_without_qemu_the_header_says_what_to_install(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.runpytest("--embedvm").stdout.fnmatch_lines(["embedvm: *qemu-system-x86*"])


def test_kvm_that_is_required_and_not_worth_having_stops_at_once(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_embedvm.errors import OperationUnsupported
    from pytest_embedvm.plugin import machine

    def refuse(accel: str) -> None:
        assert accel == "kvm"
        raise OperationUnsupported("it is slow")

    monkeypatch.setattr(machine, "probe", refuse)
    for option in (["--embedvm-require-kvm"], ["--embedvm-accel", "kvm"]):
        result = pytester.runpytest_inprocess("--embedvm", *option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{' '.join(option)}: Operation not supported: it is slow"])


def test_loading_the_plugin_loads_nothing_heavy() -> None:
    code = f"""
import sys, pytest
import pytest_embedvm.plugin.hooks, pytest_embedvm.plugin.fixtures
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert said.strip() == "[]"


def test_a_run_that_uses_no_machine_loads_nothing_heavy(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(f"import sys\ndef test_it(): assert [n for n in {HEAVY!r} if n in sys.modules] == []")
    pytester.runpytest_subprocess("-p", "no:xdist").assert_outcomes(passed=1)


def test_it_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("-p", "no:embedvm").assert_outcomes(passed=1)
    assert pytester.runpytest_subprocess("-p", "no:embedvm", "--embedvm").ret == pytest.ExitCode.USAGE_ERROR


def test_the_cache_directory_is_given_on_and_forgotten(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import os\ndef test_it(): assert os.environ['EMBEDVM_CACHE_DIR'].endswith('/my cache')")
    before = os.environ.get("EMBEDVM_CACHE_DIR")
    pytester.runpytest_inprocess("--embedvm", "--embedvm-cache-dir", "my cache").assert_outcomes(passed=1)
    assert os.environ.get("EMBEDVM_CACHE_DIR") == before


def test_a_users_own_fixture_of_the_same_name_is_no_reason_to_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def vm(): return "mine"

        @pytest.fixture
        def embedvm_helper(): return "mine too"

        def test_it(vm, embedvm_helper): assert vm == "mine"
        """
    )
    pytester.runpytest().assert_outcomes(passed=1)


def test_a_console_is_shown_live(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def embedvm_domain_xml(embedvm_domain_xml): return embedvm_domain_xml.replace("<name>vm<", "<name>web<")

        @pytest.mark.embedvm(cmdline="rdinit=/no/such")
        def test_it(vm): pass
        """
    )
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-show-console")
    result.assert_outcomes(errors=1)
    result.stdout.re_match_lines([r"-+ Captured stdout setup -+", r"web\| .*Linux version", r"web\| .*Kernel panic"])


def test_the_environments_accelerator_is_the_options_default(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDVM_ACCEL", "tcg")
    pytester.runpytest("--embedvm").stdout.re_match_lines([r"embedvm: QEMU .*, TCG: "])
    monkeypatch.setenv("EMBEDVM_ACCEL", "warp")
    result = pytester.runpytest("--embedvm")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*EMBEDVM_ACCEL=warp: it may be auto, kvm, tcg"])


def test_the_option_wins_over_the_environment_for_the_driver_too(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDVM_ACCEL", "tcg")
    pytester.makepyfile("import os\ndef test_it(): assert os.environ['EMBEDVM_ACCEL'] == 'auto'")
    pytester.runpytest("--embedvm", "--embedvm-accel", "auto").assert_outcomes(passed=1)
    assert os.environ["EMBEDVM_ACCEL"] == "tcg"
