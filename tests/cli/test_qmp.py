"""`embedvm qmp`: one command, a script, a shell."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.cli import qmp
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.main import main
from pytest_embedvm.embed import make_uri
from tests.cli.conftest import Boot, Terminal

Run = Callable[..., Terminal]


@pytest.mark.parametrize(
    ("words", "command", "arguments"),
    [
        (["query-status"], "query-status", {}),
        (["qom-get", "path=/machine", "property=type"], "qom-get", {"path": "/machine", "property": "type"}),
        (["x", "n=7", "b=true", "s=07", "l=[1]", "e="], "x", {"n": 7, "b": True, "s": "07", "l": [1], "e": ""}),
        (["x", "a.b=1", "a.c.d=2", "f=a=b"], "x", {"a": {"b": 1, "c": {"d": 2}}, "f": "a=b"}),
        (["x", '{"a": ', '"b"}'], "x", {"a": "b"}),
        (['{"execute": "x", "arguments": {"a": 1}}'], "x", {"a": 1}),
        (['{"execute": "x"}'], "x", {}),
    ],
)
def test_a_command_is_read_as_it_is_meant(words: list[str], command: str, arguments: dict[str, Any]) -> None:
    assert qmp.parse(words) == (command, arguments)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["x", "alone"], "'alone' is no argument"),
        (["x", "{"], "this is no JSON: {:"),
        (['{"exec": 1}'], 'a QMP message needs "execute"'),
        (["x", "a=1", "a.b=2"], "'a.b': 'a' has a value already"),
    ],
)
def test_what_is_no_command_is_said(words: list[str], says: str) -> None:
    with pytest.raises(CommandFailed) as raised:
        qmp.parse(words)
    assert str(raised.value).startswith(says)


def test_one_command(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot()
    assert main(["qmp", str(root), "a", "query-name"]) == 0
    assert json.loads(capsys.readouterr().out) == {"name": "a"}
    assert main(["qmp", str(root), "query-name", '{"no": 1}']) == 1
    assert capsys.readouterr().err == "embedvm qmp: QEMU refused 'query-name': Parameter 'no' is unexpected\n"


def test_without_a_door_it_says_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    connection = libvirt.open(make_uri(root), debug=False)
    xml = "<domain type='qemu'><name>a</name><memory>16384</memory><os><type machine='q35'>hvm</type></os></domain>"
    connection.createXML(xml, libvirt.VIR_DOMAIN_START_PAUSED)
    assert main(["qmp", str(root), "a", "query-name"]) == 1
    assert "debug.sock: the VM was started with debug=False, or has ended" in capsys.readouterr().err
    assert main(["stop", str(root)]) == 0
    connection.close()


def test_the_human_monitor(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot()
    for words in (["--hmp", str(root), "a", "info", "name"], [str(root), "a", "--hmp", "info", "name"]):
        assert main(["qmp", *words]) == 0
        assert capsys.readouterr().out == "a\n"


def test_a_script_goes_on_after_an_error_and_shows_events(
    boot: Boot, root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot()
    lines = ("nonsense", "", "it's wrong", "stop", '{"execute": "query-name"}', "query-status {}")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["qmp", str(root)]) == 1
    said = capsys.readouterr()
    assert '"event": "STOP"' in said.out
    assert '"status": "paused"' in said.out
    assert said.err.splitlines() == [
        "QEMU refused 'nonsense': The command nonsense has not been found",
        "No closing quotation: it's wrong",
    ]


def test_a_shell_has_a_prompt_and_completes(boot: Boot, root: Path, terminal: Run) -> None:
    domain = boot()
    shell = terminal("qmp", root, "a")
    shell.until(r"\(a\) ")
    shell.type("query-nam\t\n")
    shell.until('"name": "a"(.|\n)*\\(a\\) ')
    domain.suspend()
    shell.type("\n")
    shell.until('"event": "STOP"(.|\n)*\\(a\\) ')  # what is typed before the prompt is not the shell's yet
    shell.type("\x04")
    assert shell.end() == 0


def test_the_tests_own_monitor_answers_while_a_shell_is_open(boot: Boot, root: Path, terminal: Run) -> None:
    domain = boot()
    shell = terminal("qmp", "--hmp", root)
    shell.until(r"\(a\) ")
    assert '"status":"running"' in libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-status"}', 0)
    domain.destroy()
    shell.type("info name\n")
    assert shell.end() == 1
    assert "QEMU hung up" in shell.said.decode()


def test_the_next_visitor_is_told_why_he_waits(
    boot: Boot, root: Path, terminal: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boot()
    shell = terminal("qmp", root)
    shell.until(r"\(a\) ")
    monkeypatch.setattr("pytest_embedvm.cli.door.GREETING_TIMEOUT_S", 0.5)
    assert main(["qmp", str(root), "a", "query-name"]) == 1
    assert "another visitor may be at the door" in capsys.readouterr().err
    shell.type("\x04")
    assert shell.end() == 0
    monkeypatch.undo()
    assert main(["qmp", str(root), "a", "query-name"]) == 0
