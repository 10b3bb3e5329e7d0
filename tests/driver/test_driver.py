"""Roots, and the machines in them, on real QEMU."""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from pathlib import Path

import pytest

from pytest_embedvm.constants import ConnectListAllDomainsFlags as List
from pytest_embedvm.constants import DomainCreateFlags, DomainXMLFlags
from pytest_embedvm.driver.client import Client
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import (
    EmbedError,
    InternalError,
    NoDomain,
    OperationFailed,
    OperationInvalid,
    SystemFailure,
    XMLError,
)
from pytest_embedvm.qemu.process import command_of
from tests.driver import tiny
from tests.driver.conftest import Events, OpenDriver, state
from tests.driver.test_descriptors import open_descriptors

PAUSED = DomainCreateFlags.START_PAUSED
AUTODESTROY = DomainCreateFlags.START_AUTODESTROY


async def test_connections_share_a_driver_by_directory(embed: OpenDriver, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "root")
    async with embed() as one, embed(tmp_path / "link") as other:
        assert one is other
        machine = await one.create_xml(tiny.xml(tmp_path), PAUSED)
        await other.close()
        assert machine.active
        assert await Driver.open(one.uri) is one
    assert not machine.active
    assert not one.root.pid_file.exists()


async def test_many_roots_know_nothing_of_each_other(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed(tmp_path / "1") as one, embed(tmp_path / "2") as two, embed(tmp_path / "3") as three:
        drivers = (one, two, three)
        machines = [await driver.create_xml(tiny.xml(tmp_path / driver.root.path.name), PAUSED) for driver in drivers]
        assert [machine.id for machine in machines] == [1, 1, 1]
        await machines[0].destroy()
        assert [len(driver.machines()) for driver in drivers] == [0, 1, 1]


@pytest.mark.parametrize("name", ["x" * 220, "with space, comma", "ünïcode" * 20, "/".join(["deep"] * 60)])
async def test_any_root_will_do(embed: OpenDriver, tmp_path: Path, name: str) -> None:
    async with embed(tmp_path / name) as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path, name="ü, x"), PAUSED)
        assert state(machine) == ("PAUSED", "USER")
        assert "-name 'guest=ü,, x,debug-threads=on'" in driver.root.log_path("ü, x").read_text()


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("name", ["..", ".", "a&#10;b", "a b", "a" * 300, "%2e", "-x", "~"])
async def test_no_name_leaves_the_root(embed: OpenDriver, tmp_path: Path, name: str) -> None:
    (tmp_path / "com").mkdir()
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path / "com", name=name))
        await machine.create(PAUSED)
        assert names(tmp_path) == ["com", "root"]
        assert len(names(driver.root.path / "etc/qemu")) == 1
        assert [name for name in names(driver.root.path / "log/qemu") if name != "console"] == [
            f"{Path(names(driver.root.path / 'etc/qemu')[0]).stem}.log"
        ]
        await machine.destroy()
    async with embed() as driver:
        assert [machine.name for machine in driver.machines()] == [name.replace("&#10;", "\n")]


async def test_a_name_with_a_slash_is_refused(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        with pytest.raises(XMLError, match=r"^XML error: name a/b cannot contain '/'$"):
            await driver.define_xml(tiny.xml(tmp_path, name="a/b"))


async def test_autodestroy_ends_with_its_connection(embed: OpenDriver, tmp_path: Path) -> None:
    ours, theirs = Client(), Client()
    async with embed() as driver:
        await Driver.open(driver.uri)
        doomed = await driver.create_xml(tiny.xml(tmp_path, "a"), AUTODESTROY | PAUSED, ours)
        spared = await driver.create_xml(tiny.xml(tmp_path / "b", "b", number=2), AUTODESTROY | PAUSED, theirs)
        plain = await driver.create_xml(tiny.xml(tmp_path / "c", "c", number=3), PAUSED)
        assert [machine.autodestroy for machine in (doomed, spared, plain)] == [True, True, False]
        await driver.close(ours)
        assert [machine.active for machine in (doomed, spared, plain)] == [False, True, True]


async def test_the_last_close_hears_of_every_end(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await machine.create()
        home = list((driver.root.path / "lib/qemu").glob("domain-*"))
        assert home
    assert state_after_close(machine) == "SHUTOFF"
    assert not home[0].exists()


async def test_a_start_that_is_under_way_ends_with_the_last_close(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path))
        starting = asyncio.create_task(machine.create())
        await asyncio.sleep(0)
        assert machine.starting
    with pytest.raises(InternalError, match="process exited while connecting to monitor"):
        await starting
    assert not machine.active
    assert not driver.root.pid_file.exists()


def state_after_close(machine: object) -> str:
    return machine.status.state.name  # type: ignore[attr-defined]


async def test_definitions_survive(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        await driver.define_xml(tiny.xml(tmp_path))
        await driver.define_xml(tiny.xml(tmp_path, "b", number=2))
        await driver.by_name("b").undefine()
        written = driver.by_name("a").xml()
    async with embed() as driver:
        (machine,) = driver.machines()
        assert machine.xml() == written
        assert machine.persistent
        await machine.create(PAUSED)


async def test_lookups(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        assert driver.by_id(machine.id) is driver.by_name("a") is driver.by_uuid(machine.uuid) is machine
        with pytest.raises(NoDomain, match=r"^Domain not found: no domain with matching name 'nosuch'$"):
            driver.by_name("nosuch")
        nobody = uuid.UUID("22222222-2222-2222-2222-222222222222")
        with pytest.raises(NoDomain, match=rf"^Domain not found: no domain with matching uuid '{nobody}'$"):
            driver.by_uuid(nobody)
        with pytest.raises(NoDomain, match=r"^Domain not found: no domain with matching id 77$"):
            driver.by_id(77)


async def test_lists(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        await driver.create_xml(tiny.xml(tmp_path, "paused"), PAUSED)
        await driver.create_xml(tiny.xml(tmp_path / "2", "running", number=2))
        await driver.define_xml(tiny.xml(tmp_path / "3", "off", number=3))

        def names(flags: int) -> list[str]:
            return sorted(machine.name for machine in driver.machines(flags))

        assert names(0) == ["off", "paused", "running"]
        assert names(List.ACTIVE) == ["paused", "running"]
        assert names(List.ACTIVE | List.INACTIVE) == ["off", "paused", "running"]
        assert names(List.PERSISTENT) == ["off"]
        assert names(List.TRANSIENT | List.PAUSED) == ["paused"]
        assert names(List.RUNNING | List.SHUTOFF) == ["off", "running"]
        assert names(List.HAS_SNAPSHOT) == names(List.OTHER) == names(List.AUTOSTART) == []


U1, U2 = "11111111-1111-1111-1111-000000000001", "11111111-1111-1111-1111-000000000002"


async def test_who_may_have_which_name(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:

        async def refused(call: object, error: type[EmbedError], message: str) -> None:
            with pytest.raises(error) as caught:
                await call  # type: ignore[misc]
            assert caught.value.message == message
            assert len(driver.machines()) == 1

        taken = f"operation failed: domain 'a' already exists with uuid {U1}"
        renamed = f"operation failed: domain 'a' is already defined with uuid {U1}"
        active = "Requested operation is not valid: domain 'a' is already active"
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        await refused(driver.create_xml(tiny.xml(tmp_path, number=2)), OperationFailed, taken)
        await refused(driver.define_xml(tiny.xml(tmp_path, number=2)), OperationFailed, taken)
        await refused(driver.create_xml(tiny.xml(tmp_path)), OperationInvalid, active)
        await refused(driver.define_xml(tiny.xml(tmp_path, "b")), OperationFailed, renamed)
        await machine.destroy()
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await refused(driver.create_xml(tiny.xml(tmp_path, number=2)), OperationFailed, taken)
        await refused(driver.define_xml(tiny.xml(tmp_path, "b")), OperationFailed, renamed)
        assert await driver.create_xml(tiny.xml(tmp_path), PAUSED) is machine


async def test_two_at_once_for_one_name(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        calls = (driver.create_xml(tiny.xml(tmp_path), PAUSED) for _ in range(3))
        results = await asyncio.gather(*calls, return_exceptions=True)
        errors = [result for result in results if isinstance(result, BaseException)]
        assert [str(error) for error in errors] == [
            "Requested operation is not valid: domain 'a' is already being started"
        ] * 2
        assert len(driver.machines()) == 1


async def test_what_runs_once_is_not_the_definition(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await driver.create_xml(tiny.xml(tmp_path, extra="<title>this time</title>"), PAUSED)
        assert "this time" in machine.xml()
        assert "this time" not in machine.xml(DomainXMLFlags.INACTIVE)
        await machine.destroy()
        assert machine.persistent
        assert "this time" not in machine.xml()


async def test_redefinition_of_a_running_machine_is_for_its_next_start(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        await events.so_far(machine)
        await driver.define_xml(tiny.xml(tmp_path, extra="<title>next time</title>"))
        assert await events.so_far(machine) == ["DEFINED/ADDED"]
        assert (machine.persistent, machine.updated) == (True, False)
        assert "next time" not in machine.xml()
        assert "next time" in machine.xml(DomainXMLFlags.INACTIVE)
        await machine.undefine()
        assert machine.active
        await driver.define_xml(tiny.xml(tmp_path))
        assert await events.so_far(machine) == ["UNDEFINED/REMOVED", "DEFINED/UPDATED"]


async def test_rename(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        events = Events(driver)
        machine = await driver.define_xml(tiny.xml(tmp_path))
        await driver.define_xml(tiny.xml(tmp_path, "taken", number=2))
        await events.so_far(machine)
        for name, message in {
            "a": "Requested operation is not valid: Can't rename domain to itself",
            "taken": "Requested operation is not valid: domain with name 'taken' already exists",
            "a/b": "XML error: name a/b cannot contain '/'",
        }.items():
            with pytest.raises(EmbedError) as caught:
                await machine.rename(name)
            assert caught.value.message == message
        await machine.rename("b")
        assert await events.so_far(machine) == ["UNDEFINED/RENAMED", "DEFINED/RENAMED"]
        assert driver.by_name("b") is machine
        await machine.create(PAUSED)
        with pytest.raises(OperationInvalid, match=r"cannot rename active domain"):
            await machine.rename("c")
    async with embed() as driver:
        assert sorted(machine.name for machine in driver.machines()) == ["b", "taken"]


async def test_evidence_stays_after_the_end(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path))
        assert machine.evidence().command_line == ""
        await machine.create(PAUSED)
        await machine.monitor_command('{"execute": "query-name"}')
        await machine.destroy()
        evidence = machine.evidence()
        assert evidence.command_line.startswith("/usr/bin/qemu-system-x86_64 \\\n-name guest=a,debug-threads=on")
        assert any("query-name" in line for line in evidence.qmp_trace)
        log = evidence.log.read_text()
        assert evidence.command_line.splitlines()[-1] in log
        assert evidence.log.stat().st_mode & 0o777 == 0o600


def without_numbers(line: str) -> str:
    return re.sub(r"fd=\d+", "fd=N", line).removesuffix(" \\")


async def test_native_is_the_command_line_that_a_start_has(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        native = (await driver.native(tiny.xml(tmp_path))).splitlines()
        machine = await driver.create_xml(tiny.xml(tmp_path), PAUSED)
        started = machine.evidence().command_line.splitlines()
        assert [without_numbers(line) for line in started[: len(native)]] == [without_numbers(line) for line in native]


async def test_thousand_roots_leak_nothing(tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "root")
    await (await Driver.open(uri)).close()

    def alive() -> tuple[int, int, int]:
        return open_descriptors(), threading.active_count(), len(asyncio.all_tasks())

    before = alive()
    for number in range(1000):
        driver = await Driver.open(make_uri(tmp_path / str(number % 10)))
        driver.events.register(0, None, print)  # type: ignore[arg-type]
        await driver.close()
    for thread in threading.enumerate():
        if thread.name == "embedvm-events":
            await asyncio.to_thread(thread.join, 10)
    await asyncio.get_running_loop().shutdown_default_executor()
    # Threads of an earlier test may end meanwhile.
    assert all(now <= then for now, then in zip(alive(), before, strict=True)), (alive(), before)


async def test_machines_leak_nothing(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        for failing in (False, True) * 3:
            arguments = ("-nosuch",) if failing else ()
            try:
                await (await driver.create_xml(tiny.xml(tmp_path, arguments=arguments))).destroy()
            except EmbedError:
                assert failing
            after = open_descriptors(), len(asyncio.all_tasks())
            if not failing and driver.ids._last == 1:
                before = after
        assert after == before
        assert not list((driver.root.path / "lib/qemu").glob("domain-*"))


def run_python(code: str, *arguments: str) -> str:
    """What CODE prints in a process of its own."""
    text = textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_forked_child_is_told(tmp_path: Path) -> None:
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from pytest_embedvm.driver.driver import Driver
        from pytest_embedvm.driver.uri import make_uri
        from pytest_embedvm.errors import EmbedError
        loop = asyncio.new_event_loop()
        driver = loop.run_until_complete(Driver.open(make_uri(Path(sys.argv[1]))))
        if os.fork() == 0:
            for call in (driver.machines, lambda: asyncio.run(Driver.open(driver.uri))):
                try:
                    call()
                except EmbedError as error:
                    print(error, flush=True)
            os._exit(0)
        os.wait()
        loop.run_until_complete(driver.close())
        print(driver.root.pid_file.exists())
    """
    told = run_python(code, str(tmp_path)).splitlines()
    assert "a forked child must open a root of its own" in told[0]
    assert told[1].startswith(f"Failed to acquire pid file '{tmp_path}/run/qemu/driver.pid'")
    assert told[2] == "False"


def test_machines_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    code = """
        import asyncio, os, sys
        from pathlib import Path
        from pytest_embedvm.driver.driver import Driver
        from pytest_embedvm.driver.uri import make_uri
        from tests.driver import tiny
        async def main():
            driver = await Driver.open(make_uri(Path(sys.argv[1]) / "root"))
            machine = await driver.create_xml(tiny.xml(Path(sys.argv[1])))
            print(machine._running.process.pid, flush=True)
            await asyncio.sleep(60)
        asyncio.run(main())
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout
        descriptor = os.pidfd_open(int(owner.stdout.readline()))
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    with os.fdopen(descriptor) as ended:
        assert select.select([ended], [], [], 10)[0]


async def test_a_root_that_another_process_has(tmp_path: Path) -> None:
    driver = await Driver.open(make_uri(tmp_path))
    code = """
        import asyncio, sys
        from pytest_embedvm.driver.driver import Driver
        from pytest_embedvm.errors import SystemFailure
        try:
            asyncio.run(Driver.open(sys.argv[1]))
        except SystemFailure as error:
            print(error)
    """
    told = await asyncio.to_thread(run_python, code, driver.uri)
    assert told == (
        f"Failed to acquire pid file '{tmp_path}/run/qemu/driver.pid': Resource temporarily unavailable "
        f"(held by process {os.getpid()}: {command_of(os.getpid())})\n"
    )
    await driver.close()
    assert await asyncio.to_thread(run_python, code, driver.uri) == ""


async def test_kvm_is_refused_with_the_reason(embed: OpenDriver, tmp_path: Path) -> None:
    async with embed() as driver:
        refused = (await driver.host.prepare("/usr/bin/qemu-system-x86_64")).accelerator
        if refused.name == "kvm":
            pytest.skip("this host has KVM worth having")
        with pytest.raises(EmbedError) as caught:
            await driver.create_xml(tiny.xml(tmp_path).replace("type='qemu'", "type='kvm'", 1))
        assert refused.reason in caught.value.message


@pytest.mark.parametrize(
    ("emulator", "message"),
    [
        ("/nonexistent/qemu", "Cannot check QEMU binary /nonexistent/qemu: No such file or directory"),
        ("/etc/passwd", "QEMU binary /etc/passwd is not executable: Permission denied"),
    ],
)
async def test_an_emulator_that_is_none(embed: OpenDriver, tmp_path: Path, emulator: str, message: str) -> None:
    xml = tiny.xml(tmp_path, devices=f"<emulator>{emulator}</emulator>")
    async with embed() as driver:
        with pytest.raises(SystemFailure) as caught:
            await driver.define_xml(xml)
        assert caught.value.message == message
