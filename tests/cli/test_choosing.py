"""Which root and which VM a few words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.cli import choosing
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine, Root
from pytest_embedvm.qemu.identity import Identity


def made(number: int, path: str, **ids: int) -> Root:
    machines = [
        Machine(
            root=Path(path),
            name=name,
            id=domain_id,
            process=Identity(0, 0, ""),
            state="running",
            reason="booted",
            started=0.0,
            kept=False,
            xml="<domain/>",
            console_logs={},
        )
        for name, domain_id in ids.items()
    ]
    return Root(number=number, path=Path(path), label=f"r-{number}", holder=None, machines=tuple(machines))


WEB, DATABASE = made(1, "/t/test_web0/embedvm", vm=1), made(2, "/t/test_db0/embedvm", vm=1, replica=2, replica2=7)


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "roots", lambda: [WEB, DATABASE])


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("words", "root", "name", "rest"),
    [
        ("1 vm", 1, "vm", []),
        ("r-2 vm", 2, "vm", []),
        ("/t/test_db0/embedvm vm", 2, "vm", []),
        ("/t/../t/test_db0/embedvm/ vm", 2, "vm", []),
        ("test_d vm", 2, "vm", []),
        ("1", 1, "vm", []),
        ("test_web", 1, "vm", []),
        ("replica", 2, "replica", []),
        ("2 2", 2, "replica", []),
        ("2 replica2", 2, "replica2", []),
        ("1 vm query-status", 1, "vm", ["query-status"]),
        ("1 query-status x=1", 1, "vm", ["query-status", "x=1"]),
        ("replica2 cont", 2, "replica2", ["cont"]),
    ],
)
def test_the_reading_that_takes_most_and_leaves_one(words: str, root: int, name: str, rest: list[str]) -> None:
    machine, others = choosing.machine(words.split())
    assert (machine.root, machine.name, others) == ([WEB, DATABASE][root - 1].path, name, rest)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize("words", ["", "vm", "query-status", "2", "2 nobody", "embedvm vm", "3 vm", "/t vm"])
def test_what_means_none_or_several_lists_what_there_is(words: str) -> None:
    with pytest.raises(CommandFailed) as raised:
        choosing.machine(words.split())
    assert "  2 /t/test_db0/embedvm: vm, replica, replica2" in str(raised.value)


def test_with_one_machine_nothing_needs_to_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "roots", lambda: [WEB])
    assert choosing.machine([]) == (WEB.machines[0], [])
    assert choosing.machine(["vm"]) == (WEB.machines[0], [])
    assert choosing.machine(["query-status"]) == (WEB.machines[0], ["query-status"])
    with pytest.raises(CommandFailed, match="'other' is neither a root nor a domain"):
        choosing.only_machine(["other"])


def test_without_machines_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "roots", list)
    with pytest.raises(CommandFailed, match=r"\Ano VM runs\Z"):
        choosing.machine(["1"])
    monkeypatch.setattr(choosing, "roots", lambda: [made(1, "/t/empty")])
    with pytest.raises(CommandFailed, match=r"\Ano VM runs in /t/empty\Z"):
        choosing.machine([])


@pytest.mark.parametrize("path", ["~", ".", "/"])
def test_a_directory_that_is_no_root_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choosing, "roots", list)
    with pytest.raises(CommandFailed, match="no VM runs"):
        choosing.machine([path, "vm"])
