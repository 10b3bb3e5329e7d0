"""leaks: nothing stays after a test; what does is named."""

from __future__ import annotations

import pytest

from tests.plugin.conftest import environments

pytestmark = pytest.mark.usefixtures("tiny")


def test_nothing_stays(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        from pathlib import Path

        seen = []

        def now():
            folder = Path("/proc/self/fd")
            return sorted(os.readlink(link) for link in folder.iterdir() if link.exists())

        def look(tmp_path):
            seen.append(len(now()))
            base = tmp_path.parent
            assert [path for path in base.rglob("*") if path.name.startswith("embedvm")] == []
            for tasks in Path("/proc/self/task").glob("*/children"):
                assert tasks.read_text() == ""

        def test_first(embedvm_domain): pass
        def test_look_1(tmp_path): look(tmp_path)
        def test_destroys_its_own(embedvm_domain): embedvm_domain.destroy()
        def test_closes_its_own(embedvm_domain, embedvm_conn): embedvm_conn.close()
        def test_two_roots(embedvm_conn_factory, embedvm_domain_xml):
            for connection in (embedvm_conn_factory(), embedvm_conn_factory()):
                connection.createXML(embedvm_domain_xml, 0)
                connection.defineXML(embedvm_domain_xml.replace("tiny", "other"))
        def test_a_file_of_ones_own(embedvm_conn, embedvm_root): (embedvm_root / "mine.txt").write_text("mine")
        def test_look_2(tmp_path):
            look(tmp_path)
            assert seen[0] == seen[1]
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=7)
    assert list(environments(str(pytester.path))) == []


def test_a_root_of_ones_own_keeps_what_is_not_the_drivers(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_it(embedvm_conn_factory, tmp_path_factory, embedvm_domain_xml):
            root = tmp_path_factory.mktemp("mine")
            (root / "mine.txt").write_text("mine")
            embedvm_conn_factory(root).createXML(embedvm_domain_xml, 0)

        def test_after(tmp_path_factory):
            (root,) = tmp_path_factory.getbasetemp().glob("mine0")
            assert [path.name for path in root.iterdir()] == ["mine.txt"]
        """
    )
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=2)


def test_what_stays_is_an_error_that_names_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import atexit, os, socket, subprocess
        from pytest_embedvm import libvirt

        kept = []

        def test_descriptor(embedvm_conn, embedvm_root):
            with open(embedvm_root / "kept", "w") as file:
                kept.append(os.dup(file.fileno()))

        def test_process(embedvm_conn, embedvm_root):
            process = subprocess.Popen(["sleep", "600"], env={**os.environ, "ROOT": str(embedvm_root)})
            atexit.register(process.kill)

        def test_socket(embedvm_conn, embedvm_root):
            os.chdir(embedvm_root)
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("kept.sock")
            os.chdir("/")

        def test_connection(embedvm_conn, embedvm_root):
            kept.append(libvirt.open(f"qemu:///embed?root={embedvm_root}"))

        def test_innocent(embedvm_domain): pass
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(passed=5, errors=4)
    result.stdout.re_match_lines(
        [
            r"embedvm: the test is over, and still there is descriptor \d+ of this process, open on /.*/embedvm/kept",
            r"embedvm: the test is over, and still there is process \d+: sleep",
            r"embedvm: the test is over, and still there is socket /.*/embedvm/kept.sock",
            r"embedvm: the test is over, and still there is lock /.*/embedvm/run/qemu/driver.pid, of process \d+; .*",
        ]
    )
    assert list(environments(str(pytester.path))) == []


def test_a_failing_test_with_a_leak_shows_both(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import os
        def test_it(embedvm_conn, embedvm_root):
            os.open(embedvm_root, os.O_RDONLY)
            assert "what" == "failed"
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(failed=1, errors=1)
    result.stdout.fnmatch_lines(["*still there is descriptor *", "E *AssertionError: assert 'what' == 'failed'"])
