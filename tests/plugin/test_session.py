"""session: interrupts, time-outs, debuggers and death, and what is left after each: nothing."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Final

import pytest

from tests.plugin.conftest import environments

DEADLINE_S: Final = 60.0


@contextmanager
def started(pytester: pytest.Pytester, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """pytest as a child whose output can be read while it runs."""
    words = [sys.executable, "-m", "pytest", "--embedvm", "-s", f"--basetemp={pytester.path}/base", *options]
    with subprocess.Popen(words, cwd=pytester.path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            yield child
        finally:
            child.kill()


def read_until(read: Callable[[], bytes], pattern: str) -> bytes:
    """What READ gives until PATTERN is in it."""
    said = b""
    while not re.search(pattern.encode(), said):
        data = read()
        assert data, f"{pattern!r} did not come: {said.decode(errors='replace')}"
        said += data
    return said


def line_of(stream: IO[bytes] | None) -> Callable[[], bytes]:
    assert stream is not None
    return stream.readline


def qemus(pytester: pytest.Pytester) -> list[int]:
    """The QEMUs that run below the inner tests' directory."""
    return [pid for pid, name in environments(f"{pytester.path}/") if name.startswith("qemu-system")]


def wait_gone(descriptors: list[int]) -> None:
    """Return when the processes behind these pidfds have ended."""
    for descriptor in descriptors:
        with os.fdopen(descriptor):
            assert select.select([descriptor], [], [], DEADLINE_S)[0], "a QEMU outlived its pytest"


@pytest.mark.usefixtures("tiny")
def test_the_session_goes_on_or_stops_as_pytest_says(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:randomly")
    pytester.makepyfile(
        """
        def test_good(embedvm_domain): pass
        def test_bad(embedvm_domain): assert 0
        def test_last(embedvm_domain): pass
        """
    )
    pytester.runpytest_subprocess("--embedvm", "-x").assert_outcomes(passed=1, failed=1)
    pytester.runpytest_subprocess("--embedvm", "--lf").assert_outcomes(failed=1)
    assert qemus(pytester) == []


@pytest.mark.usefixtures("tiny")
def test_random_order_no_cache_no_capture_and_warnings_as_errors(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pytest_randomly")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(3))
        def test_it(embedvm_domain, embedvm_conn_factory, number): embedvm_conn_factory()
        """
    )
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    result = pytester.runpytest_subprocess(
        "--embedvm", "-p", "randomly", "-p", "no:cacheprovider", "--capture=no", "-W", "error"
    )
    result.assert_outcomes(passed=3)
    assert not result.stderr.str()


def test_an_interrupt_in_the_middle_of_a_boot_leaves_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(vm): pass\ndef test_next(vm): pass")
    with started(pytester, "--embedvm-show-console", "--embedvm-boot=cold") as child:
        read_until(line_of(child.stdout), r"vm\| .*Linux version")
        assert len(qemus(pytester)) == 1
        child.send_signal(signal.SIGINT)
        said, _ = child.communicate(timeout=DEADLINE_S)
    assert b"KeyboardInterrupt" in said, said.decode()
    assert child.returncode  # not always INTERRUPTED: pytest 9 fails in tmp_path when a set-up is interrupted
    assert qemus(pytester) == []
    assert [path for path in pytester.path.rglob("*") if path.name == "embedvm"] == []


@pytest.mark.usefixtures("tiny")
def test_no_machine_outlives_a_pytest_that_is_killed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import threading
        from conftest import TINY

        def test_it(embedvm_conn, embedvm_conn_factory):
            domains = [c.createXML(TINY.format(name="tiny"), 0) for c in (embedvm_conn, embedvm_conn_factory())]
            print("two run", flush=True)
            threading.Event().wait()
        """
    )
    with started(pytester) as child:
        read_until(line_of(child.stdout), "two run")
        descriptors = [os.pidfd_open(pid) for pid in qemus(pytester)]
        assert len(descriptors) == 2
        child.kill()
        wait_gone(descriptors)


class TestTimeout:
    def test_by_signal_the_next_test_passes(self, pytester: pytest.Pytester) -> None:
        """In the middle of a boot, and of a command's run."""
        pytest.importorskip("pytest_timeout")
        pytester.makepyfile(
            """
            import os
            from pathlib import Path
            import pytest

            @pytest.mark.timeout(10)
            @pytest.mark.embedvm(cmdline="rdinit=/bin/sh", timeout=600)  # it never answers
            def test_boots(vm): pass

            @pytest.mark.timeout(3, func_only=True)
            def test_runs(vm):
                vm.run("sleep 600", timeout=600)

            def test_next(embedvm_domain):
                assert embedvm_domain.isActive()
                children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
                assert len(sum(children, [])) == 1
            """
        )
        result = pytester.runpytest_subprocess("--embedvm", "--timeout-method=signal")
        result.assert_outcomes(passed=1, errors=1, failed=1)
        result.stdout.fnmatch_lines(["*embedvm: vm: last 20 lines of console serial0*"])
        assert qemus(pytester) == []

    @pytest.mark.usefixtures("tiny")
    def test_by_thread_no_machine_outlives_pytest(self, pytester: pytest.Pytester) -> None:
        pytest.importorskip("pytest_timeout")
        pytester.makepyfile(
            """
            import threading

            def test_it(embedvm_domain):
                print("it runs", flush=True)
                threading.Event().wait()
            """
        )
        with started(pytester, "--timeout=15", "--timeout-method=thread") as child:
            read_until(line_of(child.stdout), "it runs")
            descriptors = [os.pidfd_open(pid) for pid in qemus(pytester)]
            assert len(descriptors) == 1
            child.communicate(timeout=DEADLINE_S)
            wait_gone(descriptors)


class Terminal:
    """A pytest on a terminal of its own."""

    def __init__(self, pytester: pytest.Pytester, *options: str) -> None:
        self.pid, self.descriptor = pty.fork()
        if not self.pid:
            os.chdir(pytester.path)
            words = [sys.executable, "-m", "pytest", "--embedvm", f"--basetemp={pytester.path}/base", *options]
            os.execv(words[0], words)

    def read(self) -> bytes:
        assert select.select([self.descriptor], [], [], DEADLINE_S)[0], "nothing came"
        try:
            return os.read(self.descriptor, 65536)
        except OSError:  # Linux: the other end is closed
            return b""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def end(self) -> int:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + DEADLINE_S
        while self.read():
            assert time.monotonic() < deadline, "it goes on"
        os.close(self.descriptor)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.mark.usefixtures("tiny")
def test_a_ctrl_c_in_the_debugger_does_not_reach_the_machine(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(embedvm_domain): assert embedvm_domain.isActive() == 7")
    terminal = Terminal(pytester, "--pdb")
    read_until(terminal.read, r"\(Pdb\) ")
    before = qemus(pytester)
    assert len(before) == 1
    # Not at the prompt: a signal that comes just before readline waits is noticed at the next key only.
    terminal.type("import time; print('be' + 'gun'); exec('while True: time.sleep(.01)')\n")
    read_until(terminal.read, "begun")
    terminal.type("\x03")
    read_until(terminal.read, r"KeyboardInterrupt(.|\n)*\(Pdb\) ")
    terminal.type("p 'active:', embedvm_domain.isActive()\n")
    read_until(terminal.read, r"'active:', 1")
    assert qemus(pytester) == before
    terminal.type("q\n")
    assert terminal.end() == pytest.ExitCode.INTERRUPTED
    assert qemus(pytester) == []


class TestNewcomer:
    """What somebody reads whose host lacks something."""

    def test_without_qemu(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(pytester.path))
        pytester.makepyfile("def test_it(vm): pass\ndef test_made_in_the_test(vm_factory):\n    vm_factory()")
        result = pytester.runpytest_subprocess("--embedvm")
        result.assert_outcomes(errors=1, failed=1)
        words = "Cannot find QEMU binary qemu-system-x86_64 in PATH; it is in the package qemu-system-x86 (Debian) or *"
        result.stdout.fnmatch_lines(
            [f"embedvm: {words}", "*ERROR at setup of test_it*", f"E *SystemFailure: {words}", ">*vm_factory()"]
        )
        result.stdout.no_fnmatch_line("*pytest_embedvm/*.py:*")

    def test_without_a_kernel(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDVM_KERNEL", "/no/such/vmlinuz")
        pytester.makepyfile("def test_it(vm): pass")
        result = pytester.runpytest_subprocess("--embedvm")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["E *OperationUnsupported: *cannot read the kernel /no/such/vmlinuz: *"])
        result.stdout.no_fnmatch_line("*pytest_embedvm/*.py:*")

    @pytest.mark.parametrize(
        ("option", "complaint"),
        [
            (["--embedvm-accel", "xen"], "*argument --embedvm-accel: invalid choice: 'xen'*"),
            (["--embedvm-output"], "*argument --embedvm-output: expected one argument"),
        ],
    )
    def test_wrong_options(self, pytester: pytest.Pytester, option: list[str], complaint: str) -> None:
        result = pytester.runpytest("--embedvm", *option)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([complaint])
