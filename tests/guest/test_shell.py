"""Commands, by a real guest agent and the guest's own server, which run on this host."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.guest import VM, CommandFailed, CommandTimeout, GuestError, OutputTruncated, RunResult, shell
from tests.fakes.guest import FakeDomain


def test_a_script(hosted: VM) -> None:
    script = "echo out; echo é >&2; exit 0"
    assert hosted.run(script) == RunResult(("/bin/sh", "-c", script), 0, b"out\n", "é\n".encode())


def test_the_agent_is_asked(by_agent: VM, domain: FakeDomain) -> None:
    by_agent.run("true")
    assert domain.commands[0] == "guest-exec"
    assert set(domain.commands[1:]) == {"guest-exec-status"}


def test_the_agent_is_not_asked_where_there_is_a_channel(by_channel: VM, domain: FakeDomain) -> None:
    by_channel.run("true")
    assert domain.commands == []


def test_words_are_not_split_or_expanded(hosted: VM) -> None:
    assert hosted.run(["printf", "%s|", "a b", "$HOME", "", "*", "'\"é\n"]).text == "a b|$HOME||*|'\"é\n|"


def test_bytes_are_kept(hosted: VM) -> None:
    result = hosted.run(r"printf '\377\000\n'")
    assert (result.stdout, result.text) == (b"\xff\0\n", "\ufffd\0\n")


def test_a_failure(hosted: VM) -> None:
    with pytest.raises(CommandFailed) as caught:
        hosted.run("seq 100; echo why >&2; exit 3")
    error = caught.value
    assert (error.returncode, error.stderr, len(error.stdout)) == (3, b"why\n", 292)
    lines = str(error).splitlines()
    assert lines[0] == "/bin/sh -c 'seq 100; echo why >&2; exit 3' exited with status 3"
    assert lines[1:3] == ["stdout, the end of it:", "    81"]
    assert lines[-2:] == ["stderr, the end of it:", "    why"]


def test_a_failure_that_is_expected(hosted: VM) -> None:
    assert hosted.run(["false"], check=False).returncode == 1


def test_a_signal(hosted: VM) -> None:
    assert hosted.run("kill -9 $$", check=False).returncode == -9
    with pytest.raises(CommandFailed, match="was ended by signal 15"):
        hosted.run("kill $$")


def test_a_command_that_is_not_there(hosted: VM) -> None:
    result = hosted.run(["/no/such"], check=False)
    assert result.returncode == 127
    assert "/no/such" in result.err
    with pytest.raises(CommandFailed, match="No such file or directory"):
        hosted.run(["/no/such"])


@pytest.mark.parametrize("size", [0, 1, 100_000, 3 << 20])
def test_input(hosted: VM, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "input"
    monkeypatch.setattr(shell, "temporary_path", lambda: str(place))
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    assert hosted.run(["cat"], input=data).stdout == data
    assert not place.exists()


def test_input_as_text(hosted: VM) -> None:
    assert hosted.run("read -r line; echo $line", input="é\n").text == "é\n"


def test_input_that_nobody_reads(hosted: VM) -> None:
    assert hosted.run(["true"], input=b"x" * 500_000).returncode == 0


def test_no_input_is_empty_input(hosted: VM) -> None:
    assert hosted.run(["cat"]).stdout == b""


def test_variables_are_added(hosted: VM) -> None:
    assert hosted.run('echo "$A|$B|${PATH:+path}"', env={"A": "x y", "B": "=é"}).text == "x y|=é|path\n"


def test_the_directory(hosted: VM, tmp_path: Path) -> None:
    place = tmp_path / "-a b"
    place.mkdir()
    assert hosted.run(["pwd"], cwd=str(place), env={"A": "1"}).text == f"{place}\n"
    result = hosted.run(["pwd"], cwd=str(tmp_path / "no"), check=False)
    assert result.returncode
    assert "no" in result.err
    assert result.argv == ("pwd",)


def test_a_timeout_kills_the_command_and_its_descendants(hosted: VM, tmp_path: Path) -> None:
    script = "echo begun; echo err >&2; sleep 1000 & echo $! >pid; (sleep 1000; true)"
    with pytest.raises(CommandTimeout) as caught:
        hosted.run(script, timeout=0.5, cwd=str(tmp_path))
    assert (caught.value.stdout, caught.value.stderr) == (b"begun\n", b"err\n")
    assert "did not come within 0.5 s; the guest is running" in str(caught.value)
    assert str(caught.value).endswith("stdout, the end of it:\n    begun\nstderr, the end of it:\n    err")
    pid = (tmp_path / "pid").read_text().strip()
    assert not Path(f"/proc/{pid}/exe").exists()


def test_much_output(hosted: VM) -> None:
    assert hosted.run("head -c 15000000 /dev/zero").stdout == bytes(15_000_000)


def test_more_output_than_the_agent_keeps_is_an_error(hosted: VM) -> None:
    with pytest.raises(OutputTruncated, match="wrote more than the 16 MiB") as caught:
        hosted.run("head -c 17000000 /dev/zero; echo why >&2; exit 1")
    assert caught.value.stdout == bytes(16 << 20)
    assert caught.value.stderr == b"why\n"


@pytest.mark.parametrize("command", [[], ["a\0b"], "a\0b"])
def test_what_cannot_be_run(fake: VM, domain: FakeDomain, command: list[str] | str) -> None:
    with pytest.raises(GuestError):
        fake.run(command)
    assert domain.commands == []


@pytest.mark.parametrize("name", ["", "a=b", "a\0"])
def test_what_can_be_no_variable(fake: VM, name: str) -> None:
    with pytest.raises(GuestError):
        fake.run("true", env={name: "x"})
