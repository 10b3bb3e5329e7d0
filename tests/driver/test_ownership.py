"""QEMU as a user of its own: what it is, what it is lent, and that it ends with the driver all the same."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.loans import Loans
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.ownership import Ownership
from pytest_embedvm.driver.roots.purge import purge
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import ConfigUnsupported, InternalError, SystemFailure
from pytest_embedvm.qemu.confinement import Identity
from tests.driver import tiny
from tests.driver.config.test_live import certify, needs_openssl

USER = 65534
CONFIG = {"user": f"+{USER}", "group": f"+{USER}"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run QEMU as somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@asynccontextmanager
async def opened(root: Path, config: Any = CONFIG) -> AsyncIterator[Driver]:
    driver = await Driver.open(make_uri(root), Options(config=config))
    try:
        yield driver
    finally:
        await driver.close()


def status(machine: Machine) -> dict[str, str]:
    assert machine._running
    lines = Path(f"/proc/{machine._running.process.pid}/status").read_text().splitlines()
    return {name: rest.strip() for name, _, rest in (line.partition(":") for line in lines)}


def owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


def disk(path: Path, *, size: int = 1 << 16) -> str:
    path.write_bytes(bytes(size))
    path.chmod(0o600)
    return f"<disk type='file'><driver name='qemu' type='raw'/><source file='{path}'/><target dev='vda' bus='virtio'/>"


async def test_qemu_is_that_user_and_can_do_its_work(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}</disk><graphics type='vnc'><listen type='socket'/></graphics><console type='pty'/>"
    backing = "<memoryBacking><source type='file'/></memoryBacking>"
    async with opened(place / "root") as driver:
        machine = await driver.create_xml(tiny.xml(place, devices=devices, extra=backing))
        found = status(machine)
        assert found["Uid"].split() == found["Gid"].split() == [str(USER)] * 4
        assert found["CapEff"] == "0" * 16
        assert owner(image) == (USER, USER)
        await tiny.tell(place, b"x")  # the guest runs, and says so on a socket of ours
        (vnc,) = re.findall(r"<listen type='socket' socket='([^']+)'", machine.xml())
        connect_unix(Path(vnc)).close()
        await machine.destroy()
        assert owner(image) == (0, 0)


async def test_nobody_else_can_look_into_the_root(place: Path) -> None:
    async with opened(place / "root") as driver:
        await driver.create_xml(tiny.xml(place))
        for path in (place / "root").rglob("*"):
            if not path.is_symlink():
                assert not path.stat().st_mode & 0o007, path
                assert path.stat().st_mode & 0o020 == 0, path
        definitions = place / "root/etc"
        assert not definitions.exists() or owner(definitions) == (0, 0)


async def test_the_console_and_its_log(place: Path) -> None:
    log = place / "console.log"
    log.touch(0o600)
    text = tiny.xml(place, devices=f"<serial type='file'><source path='{log}'/></serial>")
    async with opened(place / "root") as driver:
        machine = await driver.create_xml(text)
        assert owner(log) == (USER, USER)
        logs = list((place / "root/log/qemu/console").rglob("*.log"))
        assert {owner(path) for path in logs} <= {(USER, USER)}
        await machine.destroy()
        assert {owner(path) for path in (log, *logs)} == {(0, 0)}


async def test_what_it_may_open_as_it_is_stays_as_it_is(place: Path) -> None:
    async with opened(place / "root") as driver:
        image = place / "disk.img"
        devices = f"{disk(image)}<readonly/></disk>"
        image.chmod(0o644)
        await driver.create_xml(tiny.xml(place, devices=devices))
        assert owner(image) == owner(place / "tiny.fd") == (0, 0)


async def test_what_two_share_is_given_back_by_the_last(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}<readonly/></disk>"
    os.chown(image, 1234, 4321)
    async with opened(place / "root") as driver:
        first = await driver.create_xml(tiny.xml(place / "a", "a", number=1, devices=devices))
        second = await driver.create_xml(tiny.xml(place / "b", "b", number=2, devices=devices))
        await first.destroy()
        assert owner(image) == (USER, USER)
        await second.destroy()
        assert owner(image) == (1234, 4321)


async def test_what_two_roots_share_is_given_back_by_the_last(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}<readonly/></disk>"
    os.chown(image, 1234, 4321)
    async with opened(place / "one") as one, opened(place / "two") as two:
        machines = [
            await driver.create_xml(tiny.xml(place / name, name, devices=devices))
            for driver, name in ((one, "a"), (two, "b"))
        ]
        await machines[0].destroy()
        assert owner(image) == (USER, USER)
        await machines[1].destroy()
        assert owner(image) == (1234, 4321)


async def test_a_machine_that_is_kept_keeps_what_it_was_lent(place: Path) -> None:
    image = place / "disk.img"
    text = tiny.xml(place, devices=f"{disk(image)}</disk>")
    options = Options(config=CONFIG, keep_running=True)
    driver, client = await Driver.open(make_uri(place / "root"), options), Client(options)
    await driver.create_xml(text, 0, client)
    await driver.close(client)
    assert owner(image) == (USER, USER)
    async with opened(place / "root") as again:
        machine = again.by_name("a")
        assert status(machine)["Uid"].split() == [str(USER)] * 4
        assert owner(image) == (USER, USER)
        await machine.destroy()
        assert owner(image) == (0, 0)


async def test_a_start_that_fails_gives_everything_back(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}</disk>"
    async with opened(place / "root") as driver:
        with pytest.raises(InternalError, match="no-such-option"):
            await driver.create_xml(tiny.xml(place, devices=devices, arguments=("-no-such-option",)))
    assert owner(image) == (0, 0)


async def test_an_owner_that_is_not_remembered(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}</disk>"
    os.chown(image, 1234, 4321)
    async with opened(place / "root", {**CONFIG, "remember_owner": False}) as driver:
        await driver.create_xml(tiny.xml(place, devices=devices))
    assert owner(image) == (0, 0)


@needs_openssl
async def test_certificates(place: Path) -> None:
    certificates = certify(place / "root/etc/pki/qemu")
    async with opened(place / "root", {**CONFIG, "vnc_tls": True}) as driver:
        machine = await driver.create_xml(tiny.xml(place, devices="<graphics type='vnc'/>"))
        assert owner(certificates / "server-key.pem") == (USER, USER)
        assert owner(certificates / "ca-key.pem") == (0, 0)
        await machine.destroy()
    assert owner(certificates / "server-key.pem") == (0, 0)


async def test_a_record_that_cannot_be_read(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    record = place / "root/run/qemu/owners.json"
    record.parent.mkdir(parents=True)
    record.write_text("[1]")
    async with opened(place / "root"):
        assert "owners.json cannot be read" in caplog.text
        assert record.with_name("owners.json.unreadable").read_text() == "[1]"


async def test_what_a_machine_that_outlived_its_driver_was_lent(place: Path) -> None:
    image, root = place / "disk.img", Root(place / "root")
    disk(image)
    loans = Loans(root, remember=True)
    for machine in ("kept", "lost"):
        loans.lend(image, Identity(USER, USER), machine, contextlib.AsyncExitStack())
    loans.close()
    again, stack = Loans(root, remember=True), contextlib.AsyncExitStack()
    again.recover({"kept"})
    again.adopt("kept", stack)
    assert owner(image) == (USER, USER)
    await stack.aclose()
    again.close()
    assert owner(image) == (0, 0)


async def test_without_dynamic_ownership_nothing_is_lent(place: Path) -> None:
    image = place / "disk.img"
    devices = f"{disk(image)}</disk>"
    async with opened(place / "root", {**CONFIG, "dynamic_ownership": False}) as driver:
        with pytest.raises(InternalError, match="Permission denied"):
            await driver.create_xml(tiny.xml(place, devices=devices))
        os.chown(image, USER, USER)
        await driver.create_xml(tiny.xml(place, devices=devices))
    assert owner(image) == (USER, USER)


async def test_the_variables_of_a_firmware(place: Path) -> None:
    code, template = place / "code.fd", place / "vars.fd"
    code.write_bytes(tiny.firmware())
    template.write_bytes(bytes(8192))
    loader = f"<loader type='pflash' readonly='yes'>{code}"
    text = tiny.xml(place, extra="<features><acpi/></features>").replace(
        f"<loader type='rom'>{place / 'tiny.fd'}", loader
    )
    async with opened(place / "root", {**CONFIG, "nvram": [f"{code}:{template}"]}) as driver:
        machine = await driver.define_xml(text)
        await machine.create()
        (store,) = (place / "root/lib/qemu/nvram").rglob("*.fd")
        assert owner(store) == (USER, USER)
        await machine.destroy()
        assert owner(store) == (0, 0)


async def test_a_root_that_the_user_cannot_reach(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    with pytest.raises(SystemFailure, match=rf"QEMU's user {USER}:{USER} may not search directory '{place}/closed'"):
        await Driver.open(make_uri(place / "closed/root"), Options(config=CONFIG))
    async with opened(place / "closed/root", {}):
        pass


async def test_an_image_that_the_user_cannot_reach(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    image = place / "closed/disk.img"
    devices = f"{disk(image)}</disk>"
    async with opened(place / "root") as driver:
        with pytest.raises(SystemFailure, match=rf"may not search directory '{place}/closed', in which '{image}' is"):
            await driver.create_xml(tiny.xml(place, devices=devices))
    assert owner(image) == (0, 0)


def test_a_user_without_a_group(place: Path) -> None:
    with pytest.raises(ConfigUnsupported, match="user 3999999999 is in no group; 'group' must be given"):
        Ownership(Root(place), Config(user=3_999_999_999))
    assert Ownership(Root(place), Config(user=0)).confinement.identity is None


CHILD = """
import asyncio, json, sys
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.uri import make_uri

async def main():
    driver = await Driver.open(make_uri(sys.argv[1]), Options(config=json.loads(sys.argv[3])))
    machine = await driver.create_xml(sys.argv[2])
    print(machine._running.process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize("again", ["open", "purge"])
def test_it_dies_with_a_driver_that_is_killed(place: Path, again: str) -> None:
    config = '{"user": "+65534", "group": "+65534", "max_files": 512, "max_core": 4096}'
    image = place / "disk.img"
    text = tiny.xml(place, devices=f"{disk(image)}</disk>")
    words = [sys.executable, "-c", CHILD, str(place / "root"), text, config]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdout
        pid = int(child.stdout.readline())
        qemu = os.pidfd_open(pid)
        try:
            assert Path(f"/proc/{pid}").stat().st_uid in (USER, 0)  # 0 while it may not be traced
            assert owner(image) == (USER, USER)
            child.kill()
            assert select.select([qemu], [], [], 30)[0], "QEMU lives on"
        finally:
            if not select.select([qemu], [], [], 0)[0]:
                signal.pidfd_send_signal(qemu, signal.SIGKILL)
            os.close(qemu)
    assert owner(image) == (USER, USER)
    asyncio.run(_opens_again(place)) if again == "open" else purge(place / "root")
    assert owner(image) == (0, 0)
    assert not list(place.rglob("owners.json"))


async def _opens_again(place: Path) -> None:
    async with opened(place / "root") as driver:
        await driver.create_xml(tiny.xml(place))
    assert stat.S_IMODE((place / "root").stat().st_mode) == 0o710
