"""Labels of roots, and who says what in a machine's log."""

from __future__ import annotations

import logging
import os
import re
import signal
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags, DomainDestroyFlagsValues, DomainEventID, DomainShutoffReason
from pytest_embedvm.driver import logs
from pytest_embedvm.driver.events import Event
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.logs import Log
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver

PAUSED = DomainCreateFlags.START_PAUSED

MOMENT = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00:00"


@pytest.fixture(autouse=True)
def _no_labels_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_paths", {})


def test_a_label_is_the_directory_s_name_and_four_digits() -> None:
    assert re.fullmatch(r"root-[0-9a-f]{4}", logs.label(Path("/a/root")))
    assert logs.label(Path("/a/root")) == logs.label(Path("/a/root"))
    assert logs.label(Path("/a/root")) != logs.label(Path("/b/root"))


def test_a_label_is_short_and_fits_on_a_line() -> None:
    label = logs.label(Path("/") / ("[long] 100%\n" * 20))
    assert re.fullmatch(r"_long__100__[\w.-]{1,8}-[0-9a-f]{4}", label)


def test_no_two_roots_of_a_process_share_a_label() -> None:
    """Of 700 directories with one name, some have the same first four digits."""
    paths = [Path(f"/{number}/root") for number in range(700)]
    labels = [logs.label(path) for path in paths]
    assert len(set(labels)) == 700
    assert max(map(len, labels)) > len("root-1234")
    assert [logs.label(path) for path in reversed(paths)] == labels[::-1]


def test_all_spellings_of_a_root_have_one_label(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert Root(tmp_path).label == Root(tmp_path / "link").label == Root(tmp_path / ".").label


async def test_every_record_of_two_roots_names_its_own(
    embed: OpenDriver, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "pytest_embedvm")
    places = {name: tmp_path / name / "root" for name in ("one", "two")}
    (places["two"] / "etc/qemu").mkdir(parents=True)
    (places["two"] / "etc/qemu/broken.xml").write_text("<domain")
    labels, domains = {}, {}
    async with embed(places["one"]) as one, embed(places["two"]) as two:
        for name, driver in (("one", one), ("two", two)):
            labels[name], domains[name] = driver.root.label, f"vm-{name}"
            events = Events(driver)
            driver.events.register(DomainEventID.LIFECYCLE, None, _fail)
            machine = await driver.create_xml(tiny.xml(tmp_path / name, domains[name], extra="<nosuch/>"), PAUSED)
            os.kill(machine._running.process.pid, signal.SIGKILL)
            await events.until("STOPPED/FAILED")
            await events.so_far(machine)  # the last callback has failed, too
    ours = [record for record in caplog.records if record.name.startswith("pytest_embedvm")]
    for record in ours:
        root, domain = record.__dict__["embedvm_root"], record.__dict__["embedvm_domain"]
        (name,) = [name for name, label in labels.items() if label == root]
        assert domain in (None, domains[name])
        assert record.getMessage().startswith(f"[{root}/{domain}] " if domain else f"[{root}] ")
        assert domains[_other(name)] not in record.getMessage()
        assert str(places[_other(name)]) not in record.getMessage()
    for name, label in labels.items():
        said = [r.getMessage().partition("] ")[2] for r in ours if r.__dict__["embedvm_root"] == label]
        for sentence in ("is /", "ignored, because", "QEMU is process", "callback", "shut down, reason=crashed"):
            assert [text for text in said if text.startswith(sentence)], (name, sentence, said)
    assert sum("cannot be read" in record.getMessage() for record in ours) == 1
    assert labels["one"] != labels["two"]


def _fail(machine: Machine, event: Event) -> None:
    raise ValueError("mine")


def _other(name: str) -> str:
    return {"one": "two", "two": "one"}[name]


def own_lines(log: Path, label: str) -> list[str]:
    """What the driver itself said in LOG, without the moments."""
    return re.findall(rf"^{MOMENT}: \[{re.escape(label)}\] (.*)$", log.read_text(), re.MULTILINE)


async def test_a_machine_s_log_says_whose_it_is_and_why_it_ended(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        path, label = driver.root.path, f"{driver.root.label}/a"
        for _ in range(2):
            machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
            await machine.destroy()
        start = f"starting up in root {path}"
        assert own_lines(machine._last.log, label) == [start, "shutting down, reason=destroyed"] * 2


async def test_a_crash_and_a_power_off_are_told_apart(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events, label = Events(driver), f"{driver.root.label}/a"
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        os.kill(machine._running.process.pid, signal.SIGKILL)
        await events.until("STOPPED/FAILED")
        machine = await driver.create_xml(tiny.xml(tmp_path))
        await tiny.tell(tmp_path, tiny.POWER_OFF)
        await events.until("STOPPED/SHUTDOWN")
        ends = [line for line in own_lines(machine._last.log, label) if line.startswith("shutting")]
        assert ends == ["shutting down, reason=crashed", "shutting down, reason=shutdown"]


async def test_a_failed_start_is_in_the_log_behind_qemu_s_words(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        with pytest.raises(InternalError, match="nosuch"):
            await driver.create_xml(tiny.xml(tmp_path, arguments=("-device", "nosuch")))
        label, log = f"{driver.root.label}/a", driver.root.log_path("a")
        assert own_lines(log, label)[1:] == ["shutting down, reason=failed"]
        *_, words, last = log.read_text().splitlines()
        assert "'nosuch' is not a valid device model name" in words
        assert last.endswith("reason=failed")


async def test_a_log_that_is_to_go_does_not_come_back(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        await machine.destroy(DomainDestroyFlagsValues.REMOVE_LOGS)
        assert not driver.root.log_path("a").exists()
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        driver.root.log_path("a").unlink()
        await machine.destroy()
        assert not driver.root.log_path("a").exists()


def test_a_log_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logs.shutting_down(Log("r", "a"), tmp_path, DomainShutoffReason.FROM_SNAPSHOT)
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert record.getMessage() == (
        f"[r/a] this is not in {tmp_path}: shutting down, reason=from snapshot: "
        f"failed to open logfile {tmp_path}: Is a directory"
    )


def test_a_log_is_no_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "a.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemFailure, match="Too many levels of symbolic links"):
        logs.open_log(tmp_path / "a.log")
    assert not (tmp_path / "elsewhere").exists()
