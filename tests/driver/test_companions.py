"""What is heard of a passt that ends before its machine does; a script stands in for it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.errors import InternalError
from pytest_embedvm.qemu.binary import find_binary
from tests.driver.conftest import DEADLINE_S, OpenDriver

PAUSED = DomainCreateFlags.START_PAUSED
XML = """<domain type='qemu'><name>a</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices><interface type='user'><backend type='passt'/><model type='virtio'/></interface></devices></domain>"""


class Heard(logging.Handler):
    """The warnings about machines, and that there is one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self.changed = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.changed.set()


@pytest.fixture
def heard() -> Iterator[Heard]:
    heard = Heard()
    logging.getLogger("pytest_embedvm").addHandler(heard)
    yield heard
    logging.getLogger("pytest_embedvm").removeHandler(heard)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let passt be SCRIPT."""
    passt = tmp_path / "bin/passt"
    passt.parent.mkdir()
    passt.write_text(f"#!/bin/sh\n{script}\n")
    passt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{passt.parent}:{os.environ['PATH']}")


async def test_one_that_does_not_start_fails_the_start_in_its_own_words(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    stand_in(tmp_path, monkeypatch, f"exec 3>{tmp_path}/fifo; echo no such network >&2; exit 1")
    patient = tmp_path / "qemu"  # it starts once nobody has the other end of the pipe
    patient.write_text(
        f'#!/bin/sh\ncase "$*" in *guest=a*) read word <{tmp_path}/fifo ;; esac\nexec {find_binary()} "$@"\n'
    )
    patient.chmod(0o755)
    xml = XML.replace("<devices>", f"<devices><emulator>{patient}</emulator>")
    async with embed() as driver:
        with pytest.raises(InternalError, match="Could not start 'passt of net0': no such network"):
            await driver.create_xml(xml, PAUSED)
        assert driver.machines() == []


async def test_one_that_ends_later_is_in_the_log_and_in_the_evidence(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    os.mkfifo(tmp_path / "go")
    stand_in(tmp_path, monkeypatch, f"read word <{tmp_path}/go; echo $word >&2; exit 3")
    async with embed() as driver:
        machine = await driver.create_xml(XML, PAUSED)
        (tmp_path / "go").write_text("enough\n")
        assert await asyncio.to_thread(heard.changed.wait, DEADLINE_S)
        sentence = "passt of net0 has ended, and the machine runs on without it: enough"
        assert heard.said[-1].endswith(sentence)
        assert machine.active
        assert sentence in machine.evidence().qemu_log_tail


async def test_one_that_ends_with_its_machine_is_not_spoken_of(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: Heard
) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 600")
    async with embed() as driver:
        machine = await driver.create_xml(XML, PAUSED)
        await machine.destroy()
    assert heard.said == []
