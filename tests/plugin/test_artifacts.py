"""artifacts: what a failed test's report and the output directory hold, and what they leave alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pcap import read

FAILING = "def test_it(embedvm_domain): assert embedvm_domain.isActive() == 7"


def files(output: Path) -> list[str]:
    return sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())


@pytest.mark.usefixtures("tiny")
def test_a_failure_shows_its_evidence_and_keeps_the_files(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_bad=FAILING, test_good="def test_it(embedvm_domain): pass")
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(failed=1, passed=1)
    folder = pytester.path / "test-results/test_bad.py-test_it/tiny"
    result.stdout.fnmatch_lines(
        [
            "*embedvm: tiny: QEMU's standard error*",
            "char device redirected to /dev/pts/*",
            "*embedvm: tiny: last 20 QMP messages*",
            '> {"execute": "cont"*',
            "*embedvm: tiny: command line*",
            "*/qemu-system-x86_64 \\",
            "-name guest=tiny*",
            "*embedvm: tiny: files*",
            str(folder),
        ]
    )
    names = ["command-line.sh", "qemu.log", "qmp.log", "serial0.log"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert "-name guest=tiny" in (folder / "command-line.sh").read_text()
    assert '"execute": "cont"' in (folder / "qmp.log").read_text()
    assert sorted(path.name for path in folder.parent.parent.iterdir()) == [".embedvm-output", "test_bad.py-test_it"]


@pytest.mark.usefixtures("tiny")
def test_captures_are_kept_whole(pytester: pytest.Pytester) -> None:
    card = "<interface type='network'><source network='default'/></interface><interface type='user'/></devices>"
    pytester.makepyfile(
        test_it=f"""
        import pytest

        @pytest.fixture
        def embedvm_domain_xml(embedvm_domain_xml):
            return embedvm_domain_xml.replace("</devices>", "{card}")

        @pytest.mark.embedvm(capture=True)
        def test_it(embedvm_vm):
            vm = embedvm_vm
            vm.network.network._ask(lambda _, live: live.require_segment().inject([b"\\xff" * 60]))
            assert len(vm.captures) == 7
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*embedvm: tiny: captures*", "net0.pcap: 1 frames", "net1.pcap: 0 frames"])
    folder = pytester.path / "test-results/test_it.py-test_it/tiny"
    assert read(folder / "net0.pcap") == [b"\xff" * 60]
    assert read(folder / "net1.pcap") == []


@pytest.mark.usefixtures("tiny")
def test_nothing_is_written_when_all_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(embedvm_domain): pass")
    pytester.runpytest_subprocess("--embedvm").assert_outcomes(passed=1)
    assert not (pytester.path / "test-results").exists()


@pytest.mark.usefixtures("tiny")
def test_the_next_run_removes_what_the_last_one_kept_and_nothing_else(pytester: pytest.Pytester) -> None:
    output = pytester.path / "my results"
    (output / "sub").mkdir(parents=True)
    (output / "junit.xml").write_text("mine")
    (output / "sub/notes.txt").write_text("mine")
    module = pytester.makepyfile(test_it=FAILING)
    run = ("--embedvm", "--embedvm-output", "my results", "-n", "2")
    pytester.runpytest_subprocess(*run).assert_outcomes(failed=1)
    assert "test_it.py-test_it/tiny/qemu.log" in files(output)
    (output / "test_it.py-test_it/tiny/mine.txt").write_text("mine")
    module.write_text("def test_it(): pass")
    pytester.runpytest_subprocess(*run).assert_outcomes(passed=1)
    assert files(output) == ["junit.xml", "sub/notes.txt", "test_it.py-test_it/tiny/mine.txt"]
    (output / "test_it.py-test_it/tiny/mine.txt").unlink()


def test_a_list_that_points_elsewhere_is_not_followed(pytester: pytest.Pytester) -> None:
    mine = pytester.path / "mine.txt"
    mine.write_text("mine")
    output = pytester.mkdir("out")
    (output / ".embedvm-output").write_text(f"../mine.txt\n{mine}\n\nnot-there\n")
    pytester.makepyfile("def test_it(): pass")
    pytester.runpytest_subprocess("--embedvm", "--embedvm-output", "out").assert_outcomes(passed=1)
    assert mine.read_text() == "mine"
    assert not output.exists()


@pytest.mark.usefixtures("tiny")
def test_workers_keep_what_the_others_kept(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("number", range(6))
        def test_it(embedvm_domain, number): assert not number
        """
    )
    pytester.runpytest_subprocess("--embedvm", "-n", "3").assert_outcomes(failed=5, passed=1)
    kept = [path.name for path in (pytester.path / "test-results").iterdir() if path.is_dir()]
    assert sorted(kept) == [f"test_workers_keep_what_the_others_kept.py-test_it[{number}]" for number in range(1, 6)]
    listed = (pytester.path / "test-results/.embedvm-output").read_text().splitlines()
    assert sorted(listed) == [name for name in files(pytester.path / "test-results") if name != ".embedvm-output"]


def test_an_output_that_cannot_be_is_said_at_once(pytester: pytest.Pytester) -> None:
    pytester.makefile(".txt", file="mine")
    result = pytester.runpytest_subprocess("--embedvm", "--embedvm-output", "file.txt")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: --embedvm-output {pytester.path}/file.txt: Not a directory"])


@pytest.mark.usefixtures("tiny")
def test_files_that_cannot_be_kept_do_not_hide_the_failure(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "from pathlib import Path\ndef test_it(embedvm_domain, pytestconfig):\n"
        "    (pytestconfig.rootpath / 'test-results').write_text('in the way')\n    assert 0"
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*embedvm: tiny: command line*", "they cannot be kept in --embedvm-output */test-results: *"]
    )


@pytest.mark.usefixtures("tiny")
def test_a_machine_that_is_gone_and_a_connection_that_is_closed(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_gone(embedvm_domain):
            embedvm_domain.destroy()
            assert 0

        def test_closed(embedvm_conn, embedvm_domain):
            embedvm_conn.close()
            assert 0
        """
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*embedvm: tiny: command line*", "*test_gone/tiny", "*embedvm: no evidence*"])


def test_failures_of_the_set_up_too(pytester: pytest.Pytester) -> None:
    """A QEMU that does not start, a guest that is late, a guest that dies."""
    pytester.makepyfile(
        test_qemu="""
        import pytest
        from xml.etree import ElementTree

        @pytest.fixture
        def embedvm_domain_xml(embedvm_domain_xml):
            name = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"
            words = ElementTree.fromstring(f"<q:commandline {name}><q:arg value='-nonsense'/></q:commandline>")
            domain = ElementTree.fromstring(embedvm_domain_xml)
            domain.append(words)
            return ElementTree.tostring(domain, encoding="unicode")

        def test_it(vm): pass
        """,
        test_late="import pytest\n@pytest.mark.embedvm(timeout=0.5, boot='cold')\ndef test_it(vm): pass",
        test_dead="""
        import pytest

        @pytest.mark.embedvm(cmdline="rdinit=/bin/false", timeout=3600)
        def test_it(vm): pass
        """,
    )
    result = pytester.runpytest_subprocess("--embedvm")
    result.assert_outcomes(errors=3)
    result.stdout.fnmatch_lines(
        [
            "*ERROR at setup of test_it*",
            "E *GuestStopped: the guest is dead (Kernel panic - *",
            "*embedvm: vm: last 20 lines of console serial0*",
            "*end Kernel panic*",
            "*ERROR at setup of test_it*",
            "E *WaitTimeout: an answer of the guest agent did not come within 0.5 s; the guest is running",
            "*embedvm: vm: QEMU's standard error*",
            "*ERROR at setup of test_it*",
            "E *libvirtError: internal error: process exited while connecting to monitor: *",
            "*embedvm: vm: QEMU's standard error*",
            "*-nonsense: invalid option",
            "*embedvm: vm: command line*",
            "*/test-results/test_qemu.py-test_it/vm-setup",
        ]
    )
    result.stdout.no_fnmatch_line("*site-packages*")
    output = pytester.path / "test-results"
    assert "Kernel panic" in (output / "test_dead.py-test_it/vm-setup/serial0.log").read_text()
    assert "-nonsense" in (output / "test_qemu.py-test_it/vm-setup/command-line.sh").read_text()
