"""pause: a failed test waits, and its machines can be looked at from another shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.plugin.test_session import DEADLINE_S, Terminal, qemus, read_until

FAILING = "def test_it(embedvm_domain):\n    assert embedvm_domain.isActive() == 7"
PAUSED = r"paused; Enter ends the machines and goes on "

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """What a failed test leaves of these is ended."""
    made: list[Terminal] = []
    yield made
    for terminal in made:
        try:
            os.write(terminal.descriptor, b"\x03\x03")
        except OSError:
            continue


def commands(said: bytes) -> dict[str, list[str]]:
    """The commands that were printed, by their first word."""
    lines = re.findall(r"^    (\S.*-m pytest_embedvm|embedvm) (\w+)( .*?)\r?$", said.decode(), re.MULTILINE)
    return {name: [*shlex.split(program), name, *shlex.split(rest)] for program, name, rest in lines}


def said_to(words: list[str], *more: str) -> str:
    return subprocess.run([*words, *more], check=True, capture_output=True, text=True, timeout=DEADLINE_S).stdout


def test_it_waits_and_what_it_prints_works_until_enter(pytester: pytest.Pytester, terminals: list[Terminal]) -> None:
    pytester.makepyfile(FAILING)
    terminals.append(terminal := Terminal(pytester, "--embedvm-pause"))
    said = read_until(terminal.read, PAUSED)
    assert b"test_it has failed: " in said
    assert b"assert 1 == 7" in said
    typed = commands(said)
    assert list(typed) == ["console", "qmp", "log"]
    assert json.loads(said_to(typed["qmp"], "query-status"))["status"] == "running"
    assert "guest=tiny" in said_to(typed["log"])
    root = typed["qmp"][-2]
    assert f"{root}  [" in said_to([*typed["qmp"][:-3], "ps"])
    assert len(qemus(pytester)) == 1
    terminal.type("\n")
    assert terminal.end() == pytest.ExitCode.TESTS_FAILED
    assert qemus(pytester) == []


def test_a_ctrl_c_ends_the_session_and_its_machines(pytester: pytest.Pytester, terminals: list[Terminal]) -> None:
    pytester.makepyfile(FAILING)
    terminals.append(terminal := Terminal(pytester, "--embedvm-pause"))
    read_until(terminal.read, PAUSED)
    terminal.type("\x03")
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert qemus(pytester) == []


def test_the_debugger_waits_by_itself_and_the_commands_work_meanwhile(
    pytester: pytest.Pytester, terminals: list[Terminal]
) -> None:
    pytester.makepyfile(FAILING)
    terminals.append(terminal := Terminal(pytester, "--embedvm-pause", "--pdb"))
    said = read_until(terminal.read, r"\(Pdb\) ")
    assert b"paused" not in said
    assert json.loads(said_to(commands(said)["qmp"], "query-name")) == {"name": "tiny"}
    terminal.type("q\n")
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert qemus(pytester) == []


def test_stopping_the_machine_from_the_other_shell_leaves_a_clean_end(
    pytester: pytest.Pytester, terminals: list[Terminal]
) -> None:
    pytester.makepyfile(FAILING)
    terminals.append(terminal := Terminal(pytester, "--embedvm-pause"))
    typed = commands(read_until(terminal.read, PAUSED))
    *program, _, root, name = typed["log"]
    assert "has ended" in said_to([*program, "stop", root, name])
    assert "guest=tiny" in said_to(typed["log"])
    terminal.type("\n")
    assert terminal.end() == pytest.ExitCode.TESTS_FAILED


def test_a_failed_setup_waits_and_the_log_of_what_has_ended_is_named(
    pytester: pytest.Pytester, terminals: list[Terminal]
) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.fixture
        def broken(embedvm_domain):
            embedvm_domain.destroy()
            raise RuntimeError("no luck")

        def test_it(broken): pass
        """
    )
    terminals.append(terminal := Terminal(pytester, "--embedvm-pause"))
    said = read_until(terminal.read, PAUSED)
    assert b"RuntimeError: no luck" in said
    assert list(commands(said)) == ["log"]
    terminal.type("\n")
    assert terminal.end() == pytest.ExitCode.TESTS_FAILED


def test_without_a_terminal_it_says_so_and_goes_on(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["embedvm: not waiting: standard input is no terminal, *"])


def test_what_passes_is_skipped_or_has_no_machine_does_not_wait(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        def test_passes(embedvm_domain): pass
        def test_skips(embedvm_domain): pytest.skip("not today")
        @pytest.mark.xfail
        def test_is_known(embedvm_domain): assert 0
        def test_has_none(): assert 0
        """
    )
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause")
    result.assert_outcomes(passed=1, skipped=1, xfailed=1, failed=1)
    result.stdout.no_fnmatch_line("embedvm: *waiting*")


def test_a_time_out_does_not_run_meanwhile(pytester: pytest.Pytester) -> None:
    pytest.importorskip("pytest_timeout")
    with (pytester.path / "conftest.py").open("a") as conftest:
        conftest.write(
            "\nimport signal\n"
            "from pytest_embedvm.plugin import pause\n"
            "pause._wait = lambda terminal: terminal.write_line(f'timer {signal.getitimer(signal.ITIMER_REAL)}')\n"
        )
    pytester.makepyfile(f"import signal\n{FAILING}, signal.getitimer(signal.ITIMER_REAL)[0] > 0")
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause", "--timeout=250", "--timeout-method=signal")
    result.stdout.fnmatch_lines(["*AssertionError: True", "timer (0.0, 0.0)"])


def test_workers_have_no_terminal(pytester: pytest.Pytester) -> None:
    pytest.importorskip("xdist")
    pytester.makepyfile(FAILING)
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause", "-n", "1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --embedvm-pause waits at the terminal, *; add -n 0"])
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-pause", "-n", "0")
    result.assert_outcomes(failed=1)
