"""The built-in guest, moved while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM

LIVE = libvirt.VIR_MIGRATE_LIVE
#: Writes a line again and again, as long as the guest lives.
WORK = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done"


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> libvirt.virConnect:
    """Another root."""
    with libvirt.open(f"qemu:///embed?root={tmp_path_factory.mktemp('elsewhere')}") as connection:
        yield connection


def count(vm: VM) -> int:
    return int(vm.run("cat /tmp/count").text or 0)


def test_a_guest_works_on(fresh: VM, elsewhere: libvirt.virConnect) -> None:
    fresh.wait_ready()
    pid = fresh.run(f"({WORK}) >/dev/null 2>&1 & echo $!").text.strip()
    boot_id, before = fresh.run("cat /proc/sys/kernel/random/boot_id").text, count(fresh)
    moved = fresh.domain.migrate(elsewhere, LIVE)
    assert moved.connect() is elsewhere
    assert not fresh.is_running
    with VM(moved) as vm:
        vm.wait_ready()
        assert vm.run("cat /proc/sys/kernel/random/boot_id").text == boot_id
        assert vm.run(f"kill -0 {pid} && echo alive").text == "alive\n"
        first = count(vm)
        assert first >= before
        vm.run("sleep 0.5")
        assert count(vm) > first
        assert moved.state() == [libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED]
        vm.shutdown()


def test_a_busy_guest_is_moved_in_time(fresh: VM, elsewhere: libvirt.virConnect) -> None:
    """The guest dirties memory all the time; jobInfo and abortJob answer meanwhile."""
    fresh.wait_ready()
    fresh.run("(while :; do dd if=/dev/zero of=/tmp/dirty bs=1M count=20; done) >/dev/null 2>&1 &")
    fresh.domain.migrateSetMaxSpeed(1)
    outcome: list[BaseException] = []
    mover = threading.Thread(target=lambda: _note(lambda: fresh.domain.migrate(elsewhere, LIVE), outcome))
    mover.start()
    while fresh.domain.jobInfo()[0] == libvirt.VIR_DOMAIN_JOB_NONE or not fresh.domain.jobStats().get("memory_total"):
        assert mover.is_alive()
        time.sleep(0.05)
    assert fresh.domain.jobStats()["operation"] == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT
    fresh.domain.abortJob()
    mover.join(30)
    assert isinstance(outcome[0], libvirt.libvirtError)
    assert outcome[0].get_error_code() == libvirt.VIR_ERR_OPERATION_ABORTED
    assert fresh.run("echo still here").text == "still here\n"
    fresh.domain.migrateSetMaxSpeed(4096)
    with VM(fresh.domain.migrate(elsewhere, LIVE)) as vm:
        vm.wait_ready()
        assert vm.run("pidof dd || pidof sh").text


def _note(action: Callable[[], object], outcome: list[BaseException]) -> None:
    try:
        action()
    except libvirt.libvirtError as error:
        outcome.append(error)


def test_a_guest_that_was_saved_works_on(fresh: VM, tmp_path: Path) -> None:
    fresh.wait_ready()
    pid = fresh.run(f"({WORK}) >/dev/null 2>&1 & echo $!").text.strip()
    connection, name = fresh.connection, fresh.name
    fresh.domain.save(str(tmp_path / "image"))
    assert not fresh.is_running
    connection.restore(str(tmp_path / "image"))
    with VM(connection.lookupByName(name)) as vm:
        vm.wait_ready()
        assert vm.run(f"kill -0 {pid} && echo alive").text == "alive\n"
        vm.domain.destroy()
