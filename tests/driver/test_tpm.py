"""What becomes of a TPM's state, and of a start when its programs fail; scripts stand in for them."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest

from pytest_embedvm.constants import DomainCreateFlags
from pytest_embedvm.constants import DomainUndefineFlagsValues as Undefine
from pytest_embedvm.domain import definition
from pytest_embedvm.driver import tpm
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationInvalid
from tests.driver.conftest import OpenDriver

PAUSED = DomainCreateFlags.START_PAUSED
UUID = uuid.UUID("11111111-1111-1111-1111-111111111111")
XML = f"""<domain type='qemu'><name>a</name><uuid>{UUID}</uuid><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><memballoon model='none'/>
  <tpm model='tpm-crb'><backend type='emulator' version='2.0'{{}}</backend></tpm></devices></domain>"""
PLAIN, KEPT = XML.format(">"), XML.format(" persistent_state='yes'>")
BANKS = XML.format("><active_pcr_banks><sha1/><sha512/></active_pcr_banks>")


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **scripts: str) -> None:
    """Let there be these programs, and of the host's those that are needed to run them."""
    place = tmp_path / "bin"
    place.mkdir()
    for name, script in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{script}\n")
        (place / name).chmod(0o755)
    for name in ("setpriv", "qemu-system-x86_64", "sh", "cat", "touch"):
        if found := shutil.which(name):
            (place / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(place))


@pytest.mark.parametrize(
    ("xml", "flags", "stays"),
    [
        (PLAIN, 0, False),
        (PLAIN, Undefine.TPM, False),
        (PLAIN, Undefine.KEEP_TPM, True),
        (KEPT, 0, True),
        (KEPT, Undefine.TPM, False),
        (KEPT, Undefine.KEEP_TPM, True),
    ],
)
def test_what_is_forgotten(tmp_path: Path, xml: str, flags: int, stays: bool) -> None:
    root = Root(tmp_path / "root")
    state = root.directory("lib", "swtpm", str(UUID), "tpm2")
    other = root.directory("lib", "swtpm", str(uuid.uuid4()), "tpm2")
    tpm.forget(root, definition.parse(xml), flags)
    assert (state.exists(), other.exists()) == (stays, True)


async def test_undefine_wants_one_decision(embed: OpenDriver) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(PLAIN)
        with pytest.raises(OperationInvalid, match="cannot both keep and delete TPM"):
            await machine.undefine(Undefine.TPM | Undefine.KEEP_TPM)


async def test_there_is_no_swtpm(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    async with embed() as driver:
        with pytest.raises(ConfigUnsupported, match=r"Unable to find 'swtpm' binary in \$PATH"):
            await driver.create_xml(PLAIN, PAUSED)


async def test_other_banks_want_swtpm_setup(embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, swtpm="exec sleep 600")
    async with embed() as driver:
        with pytest.raises(ConfigUnsupported, match=r"Unable to find 'swtpm_setup' binary in \$PATH"):
            await driver.create_xml(BANKS, PAUSED)


async def test_what_cannot_be_made_leaves_nothing(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, swtpm="exit 0", swtpm_setup="echo no entropy >&2; exit 1")
    async with embed() as driver:
        with pytest.raises(InternalError, match=r"Could not run 'swtpm_setup'\. exitstatus: 1; .*: no entropy$"):
            await driver.create_xml(PLAIN, PAUSED)
        assert not (driver.root.path / "lib/swtpm" / str(UUID)).exists()
        assert (driver.root.path / "log/swtpm/a-swtpm.log").read_text() == "no entropy\n"


async def test_one_that_does_not_start_says_why(
    embed: OpenDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, swtpm="echo it is broken >&2; exit 1")
    async with embed() as driver:
        with pytest.raises(InternalError, match=r"Could not start 'swtpm of tpm0': it is broken$"):
            await driver.create_xml(PLAIN, PAUSED)


async def test_a_place_that_swtpm_cannot_be_told(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "a,b") as driver:
        with pytest.raises(ConfigUnsupported, match="a directory with a comma in its name"):
            await driver.create_xml(PLAIN, PAUSED)
