"""The command itself: what it knows, how it ends, how fast it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pytest_embedvm import __version__
from pytest_embedvm.cli.main import COMMANDS, main

#: What a command that only lists must not cost: lxml and qemu.qmp, asyncio beneath them, and pytest.
HEAVY = {"asyncio", "lxml", "qemu", "pytest"}


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"pytest-embedvm {__version__}\n"


def test_without_a_command_it_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: embedvm ")


@pytest.mark.parametrize("words", [["ps", "everything"], ["qmp", "a", "--no-such-option"], ["nonsense"]])
def test_what_it_does_not_understand_it_does_not_do(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "embedvm" in capsys.readouterr().err


def test_each_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert capsys.readouterr().out.startswith(f"usage: embedvm {name} ")


def test_a_reader_that_has_enough_ends_it_quietly() -> None:
    code = "import sys; from pytest_embedvm.cli.main import main; sys.exit(main(['ps']))"
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        _, said = process.communicate()
    assert (process.returncode, said) == (1, b"")


def test_the_module_is_the_command_and_imports_nothing_heavy() -> None:
    code = "import sys; from pytest_embedvm.cli import main; main._parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY & set(loaded)
    said = subprocess.run(
        [sys.executable, "-m", "pytest_embedvm", "--version"], capture_output=True, text=True, check=True
    )
    assert said.stdout == f"pytest-embedvm {__version__}\n"
