from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.restart import status
from pytest_embedvm.driver.restart.reaper import reap, reap_dead
from pytest_embedvm.driver.restart.record import Record
from pytest_embedvm.driver.roots import index
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import SystemFailure
from tests.live.conftest import xml

#: An application on a host without setpriv, where nothing ends its machines with it.
APPLICATION = """
import os, shutil, sys
from pytest_embedvm.qemu import confinement
confinement._found = lambda program: None if program == "setpriv" else shutil.which(program)
from pytest_embedvm import libvirt
connection = libvirt.open(sys.argv[1], keep_running=sys.argv[2] == "kept")
connection.createXML(sys.argv[3])
os.kill(os.getpid(), 9)
"""

OWNER = """
import sys
from pathlib import Path
from pytest_embedvm.driver.roots.root import Root
root = Root(Path(sys.argv[1]))
root.acquire()
print(flush=True)
input()
"""


@pytest.fixture(autouse=True)
def _index_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots whose owner is dead must not be found, and reaped, by the sessions that other tests start meanwhile."""
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache-of-dead-roots"))


def orphan(root: Path, kind: str = "orphan") -> Record:
    """A machine in ROOT whose owner was killed."""
    words = [sys.executable, "-c", APPLICATION, make_uri(root), kind, xml()]
    subprocess.run(words, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    (record,) = status.machines_of(root)
    return record


def test_an_orphan_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    record = orphan(tmp_path / "root")
    assert [r.name for r in asyncio.run(reap(tmp_path / "root"))] == ["a"]
    assert not record.alive
    assert asyncio.run(reap(tmp_path / "root")) == []
    assert list((tmp_path / "root/lib/qemu").glob("domain-*")) == []
    assert not (tmp_path / "root/run/qemu/a.xml").exists()
    assert not (tmp_path / "root/run/qemu/a.pid").exists()


def test_opening_the_root_ends_it_and_says_so(tmp_path: Path) -> None:
    record = orphan(tmp_path / "root")
    told = []
    events = [(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *what: told.append(what[2:4]), None)]
    with libvirt.open(make_uri(tmp_path / "root"), events=events) as connection:
        assert connection.listAllDomains() == []
        assert not record.alive
    assert told == [(libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)]


def test_one_that_is_kept_is_no_orphan_and_keeps_its_root(tmp_path: Path) -> None:
    record = orphan(tmp_path / "root", "kept")
    try:
        assert asyncio.run(reap(tmp_path / "root")) == []
        assert record.alive
        with pytest.raises(SystemFailure, match=f"domain 'a' still runs in it, kept as process {record.process.pid}"):
            Root(tmp_path / "root").purge()
    finally:
        os.kill(record.process.pid, 9)


def test_a_root_that_somebody_has_open_is_left_alone(tmp_path: Path) -> None:
    record = orphan(tmp_path / "root")
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "root")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as owner:
        assert owner.stdout
        owner.stdout.readline()
        with pytest.raises(SystemFailure, match="Failed to acquire pid file"):
            asyncio.run(reap(tmp_path / "root"))
        assert record.alive
        owner.communicate(b"\n")
    assert len(asyncio.run(reap(tmp_path / "root"))) == 1


def test_the_dead_are_found_by_the_index_and_stay_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    record = orphan(tmp_path / "root")
    assert [r.id for r in asyncio.run(reap_dead())] == [record.id]
    assert [entry.dead for entry in index.roots()] == [True]
    assert asyncio.run(reap_dead()) == []


async def test_a_root_that_is_being_reaped_can_be_opened(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    held = root.locked()
    held.__enter__()
    opening = asyncio.create_task(Driver.open(make_uri(root.path)))
    await asyncio.sleep(0.05)
    assert not opening.done()
    held.__exit__(None, None, None)
    driver = await opening
    try:
        with pytest.raises(SystemFailure, match=rf"held by process {os.getpid()}"):
            Root(root.path).acquire()
    finally:
        await driver.close()


async def test_a_root_whose_killed_owner_had_just_forked_can_be_opened(tmp_path: Path) -> None:
    root = Root(tmp_path / "root")
    root.acquire()
    root.pid_file.write_text("999999999\n")
    descriptor = root._lock._descriptor
    assert descriptor is not None
    child = os.dup(descriptor)  # that of a child which has not run yet
    root.forget()
    opening = asyncio.create_task(Driver.open(make_uri(root.path)))
    await asyncio.sleep(0.05)
    assert not opening.done()
    os.close(child)
    await (await opening).close()
