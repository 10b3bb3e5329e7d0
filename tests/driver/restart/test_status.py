from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainPausedReason, DomainRunningReason, DomainState
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.restart import status, status_xml
from pytest_embedvm.driver.restart.record import BlockJob, Companion, Pending, Record
from pytest_embedvm.driver.state import Status
from pytest_embedvm.errors import EmbedError, SystemFailure
from pytest_embedvm.qemu.identity import Identity

NUMBER = "11111111-1111-1111-1111-111111111111"
ODD = "a 'b' <c> \"d\" % é \udcff\n\x01"


def record(**changes: object) -> Record:
    return dataclasses.replace(
        Record(
            name="a",
            uuid=uuid.UUID(NUMBER),
            id=7,
            status=Status(DomainState.RUNNING, DomainRunningReason.BOOTED),
            process=Identity.of(os.getpid()),
            started=1234.5,
            kept=True,
            announced=True,
            fake_reboot=True,
            log=Path("/r/log/qemu") / ODD,
            log_start=99,
            argv=("qemu", ODD, ""),
            ports=(Port("channel0", ODD, Path("/s"), None), Port("serial0", None, None, Path("/l"))),
            files=(Path("/r/one"), Path(ODD)),
            companions=(Companion("passt", Identity(5, 6, "boot")),),
            jobs=(BlockJob("pull-vda-libvirt-1-format", "vda"),),
            detected=(2, 3),
            volumes=((1, Volume("/p/v", "file")),),
            events=(Pending("Lifecycle", {"event": "5", "name": ODD}), Pending("Reboot", {})),
            domain=f"<domain type='qemu' id='7'>\n  <name>a</name>\n  <uuid>{NUMBER}</uuid>\n</domain>\n",
        ),
        **changes,
    )


def test_goes_there_and_back() -> None:
    parsed = status_xml.parse(status_xml.format(record()))
    assert parsed == record(domain=parsed.domain)
    assert parsed.domain.replace('"', "'") == record().domain


def test_the_shape_is_libvirts() -> None:
    text = status_xml.format(record())
    assert text.startswith(f"<domstatus state='running' reason='booted' pid='{os.getpid()}'>\n")
    assert "<blockjob name='pull-vda-libvirt-1-format' type='pull' state='running'>\n      <disk dst='vda'/>" in text
    assert text.endswith("</domain>\n</domstatus>\n")


@pytest.mark.parametrize(
    ("reason", "word"),
    [
        (DomainPausedReason.STARTING_UP, "starting up"),
        (DomainPausedReason.CRASHED, "panicked"),
        (DomainPausedReason.POSTCOPY_FAILED, "post-copy failed"),
    ],
)
def test_reasons_are_spelled_as_libvirt_spells_them(reason: DomainPausedReason, word: str) -> None:
    paused = record(status=Status(DomainState.PAUSED, reason))
    assert f"state='paused' reason='{word}'" in status_xml.format(paused)
    assert status_xml.parse(status_xml.format(paused)).status == paused.status


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<embedvm version='1'", "<embedvm version='2'"),
        ("state='running'", "state='flying'"),
        ("reason='booted'", "reason='bored'"),
        (NUMBER, "1"),
        ("start='99'", "start='x'"),
        (" ticks=", " clicks="),
        ("<log ", "<lag "),
        ("</domstatus>", ""),
    ],
)
def test_what_is_no_status_is_an_error(old: str, new: str) -> None:
    with pytest.raises(EmbedError):
        status_xml.parse(status_xml.format(record()).replace(old, new))


def test_machines_are_those_that_run(tmp_path: Path) -> None:
    assert status.machines_of(tmp_path) == []
    folder = tmp_path / "run/qemu"
    folder.mkdir(parents=True)
    gone = dataclasses.replace(Identity.of(os.getpid()), start_ticks=1)
    later = record().domain.replace("id='7'", "id='8'")
    for name, changes in {"b": {"domain": later}, "c": {}, "d": {"process": None}, "e": {"process": gone}}.items():
        status.write(folder / f"{name}.xml", record(**changes))
    (folder / "f.xml").write_text("<domsta")
    (folder / "g.xml").mkdir()
    assert [found.id for found in status.machines_of(tmp_path)] == [7, 8]
    assert (folder / "b.xml").stat().st_mode & 0o777 == 0o600


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(SystemFailure, match="Failed to create file"):
        status.write(tmp_path / "missing/a.xml", record())
