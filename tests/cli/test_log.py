"""`embedvm log`, of what runs and of what has ended; and files that grow."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.cli.following import Growth, follow
from pytest_embedvm.cli.main import main
from tests.cli.conftest import Boot, Terminal

Run = Callable[..., Terminal]


def test_the_log_of_a_machine_and_of_one_that_has_ended(
    boot: Boot, root: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    domain = boot()
    assert main(["log", str(root), "a"]) == 0
    said = capfdbinary.readouterr().out
    assert b"-name guest=a" in said
    domain.destroy()
    assert main(["log", "-f", str(root)]) == 0
    assert capfdbinary.readouterr().out.startswith(said)


def test_a_name_without_a_log_lists_those_there_are(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot("web")
    boot("db")
    assert main(["log", str(root), "nobody"]) == 1
    assert f"{root}: db, web" in capsys.readouterr().err


def test_it_follows_until_the_machine_ends(boot: Boot, root: Path, terminal: Run) -> None:
    domain = boot()
    seen = terminal("log", "-f", root, "a")
    seen.until("guest=a")
    with (root / "log/qemu/a.log").open("a") as log:
        log.write("one line more\n")
    seen.until("one line more")
    domain.destroy()
    assert seen.end() == 0


def test_growth_is_read_whole_and_once(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789")
    with Growth(file) as growth, file.open("ab", buffering=0) as end:
        growth.skip(4)  # no line begins in these
        assert b"".join(growth.read()) == b"6789"
        assert b"".join(growth.read()) == b""
        end.write(b"x" * 200_000)
        assert b"".join(growth.read()) == b"x" * 200_000


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (b"ab\ncd\n", b"cd\n"),
        (b"abc\ncd\n", b"cd\n"),
        (b"abcd\nd\n", b"d\n"),
        (b"abcdef", b"def"),
        (b"ab", b"ab"),
        (b"", b""),
    ],
)
def test_the_end_of_a_file_begins_with_a_line(tmp_path: Path, content: bytes, kept: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with Growth(file) as growth:
        growth.skip(3)
        assert b"".join(growth.read()) == kept


def test_what_was_written_last_is_read_though_the_process_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    with subprocess.Popen(["sh", "-c", 'read x; echo "$x" >>"$0"', file], stdin=subprocess.PIPE) as process:
        pidfd = os.pidfd_open(process.pid)
        process.communicate(b"the end\n")
        with Growth(file) as growth:
            assert b"".join(follow(growth, pidfd)) == b"the end\n"
        os.close(pidfd)


def test_a_file_that_is_not_there_leaves_no_descriptor(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        Growth(tmp_path / "nothing")
    assert len(list(Path("/proc/self/fd").iterdir())) == before
