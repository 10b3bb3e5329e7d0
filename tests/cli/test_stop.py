"""`embedvm stop`, and what it must never end."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.cli.errors import CommandFailed
from pytest_embedvm.cli.machines import Machine, look
from pytest_embedvm.cli.main import main
from pytest_embedvm.driver.restart.status import machines_of
from pytest_embedvm.embed import make_uri
from pytest_embedvm.qemu.identity import Identity
from tests.cli.conftest import DEADLINE_S, Boot, pid_of

STOPPED = libvirt.VIR_DOMAIN_EVENT_STOPPED


@pytest.fixture
def stopped(connection: libvirt.virConnect) -> Iterator[queue.Queue[int]]:
    """The details of the STOPPED events."""
    told: queue.Queue[int] = queue.Queue()

    def note(_connection: object, _domain: object, event: int, detail: int, _opaque: object) -> None:
        if event == STOPPED:
            told.put(detail)

    number = connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, note, None)
    yield told
    connection.domainEventDeregisterAny(number)


def test_it_ends_and_its_owner_sees_it_shut_down(
    boot: Boot, root: Path, stopped: queue.Queue[int], capsys: pytest.CaptureFixture[str]
) -> None:
    boot()
    number = pid_of(root)
    assert main(["stop", str(root), "a"]) == 0
    assert capsys.readouterr().out == f"domain 'a' of {root}: process {number} has ended\n"
    assert stopped.get(timeout=DEADLINE_S) == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN


def test_without_a_door_a_signal_does_the_same(
    boot: Boot, root: Path, stopped: queue.Queue[int], capsys: pytest.CaptureFixture[str]
) -> None:
    boot()
    next(root.glob("lib/qemu/domain-*/debug.sock")).unlink()
    assert main(["stop", str(root)]) == 0
    assert "has ended" in capsys.readouterr().out
    assert stopped.get(timeout=DEADLINE_S) == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN


def test_a_qemu_that_does_not_answer_is_killed(
    boot: Boot,
    root: Path,
    stopped: queue.Queue[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    boot()
    monkeypatch.setattr("pytest_embedvm.cli.door.GREETING_TIMEOUT_S", 0.2)
    monkeypatch.setattr("pytest_embedvm.cli.stop.GRACEFUL_TIMEOUT_S", 0.2)
    os.kill(pid_of(root), signal.SIGSTOP)
    assert main(["stop", str(root)]) == 0
    assert "has been killed" in capsys.readouterr().out
    assert stopped.get(timeout=DEADLINE_S) == libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED


def test_a_process_that_has_the_number_now_is_left_alone(boot: Boot, root: Path) -> None:
    boot()
    (machine,) = look(root).machines
    with subprocess.Popen(["sleep", "60"]) as other:
        strangers: tuple[Machine, ...] = (
            dataclasses.replace(machine, process=dataclasses.replace(machine.process, pid=other.pid)),
            dataclasses.replace(machine, process=Identity.of(other.pid)),
            dataclasses.replace(machine, process=dataclasses.replace(machine.process, start_ticks=1)),
            dataclasses.replace(machine, root=root.parent),
        )
        for stranger in strangers:
            with pytest.raises(CommandFailed, match="has ended"):
                os.close(stranger.pidfd())
        assert other.poll() is None
        other.kill()
    os.close(machine.pidfd())


def test_a_record_that_names_another_process_makes_it_no_machine(
    boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even a VM, if it is another root's."""
    boot()
    record = root / "run/qemu/a.xml"
    ours = Identity.of(pid_of(root))
    with subprocess.Popen(["sleep", "60"], env={"HOME": f"{root}x/lib/qemu/domain-1-a"}) as other:
        theirs = Identity.of(other.pid)
        text = record.read_text().replace(str(ours.pid), str(theirs.pid))
        record.write_text(text.replace(str(ours.start_ticks), str(theirs.start_ticks)))
        assert [found.process for found in machines_of(root)] == [theirs]
        assert main(["stop", str(root), "a"]) == 1
        assert f"no VM runs in {root}" in capsys.readouterr().err
        assert other.poll() is None
        other.kill()


def test_another_domain_runs_on(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boot("a")
    other = boot("b")
    assert main(["stop", str(root)]) == 1
    assert f"{root}: a, b" in capsys.readouterr().err
    assert main(["stop", str(root), "a"]) == 0
    assert other.isActive()


def test_a_root_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    libvirt.open(make_uri(tmp_path / "root")).close()
    assert main(["stop", str(tmp_path / "root"), "a"]) == 1
    assert capsys.readouterr().err == f"embedvm stop: no VM runs in {tmp_path / 'root'}\n"
