"""The exec channel of the built-in guest on real QEMU: through all that a machine goes through."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import VM, AgentAbsent, domain_xml
from pytest_embedvm.guest.definition import EXEC_PORT
from pytest_embedvm.guest.image.build import build_guest
from tests.guest.conftest import await_server

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED | libvirt.VIR_DOMAIN_START_AUTODESTROY


def test_everything_a_command_has(shared: VM) -> None:
    await_server(shared)
    by_server = shared.run("id; pwd; echo $HOME $PATH $TERM; ulimit -a; umask; tty; ls /proc/self/fd")
    assert by_server.text.startswith("uid=0(root) gid=0(root)\n/root\n/root /bin:/usr/local/bin vt100\n")
    agent = shared._channel
    shared._shell._channel = type("Absent", (), {"run": lambda *_arguments: None})()  # type: ignore[assignment]
    try:
        assert shared.run("cat /proc/$PPID/comm").text == "qemu-ga\n"
        assert shared.run("id; pwd; echo $HOME $PATH $TERM; ulimit -a; umask; tty; ls /proc/self/fd") == by_server
    finally:
        shared._shell._channel = agent


def test_every_byte(shared: VM) -> None:
    await_server(shared)
    data = os.urandom(3_000_000)
    assert shared.run(["cat"], input=data).stdout == data
    word = "".join(map(chr, range(1, 256)))
    assert shared.run(["printf", "%s", word, ""]).stdout == word.encode()
    assert shared.run('echo "$A"; pwd', env={"A": word}, cwd="/proc").stdout == f"{word}\n/proc\n".encode()
    assert shared.run(["/no/such"], check=False).err == (
        "Failed to execute child process “/no/such” (No such file or directory)"
    )


def test_a_server_that_dies_comes_back(fresh: VM) -> None:
    fresh.wait_ready()
    await_server(fresh)
    old = fresh.run("echo $PPID").text
    with pytest.raises(AgentAbsent, match="the guest's server for commands went away"):
        fresh.run("kill -9 $PPID; sleep 60")
    await_server(fresh)
    assert fresh.run("echo $PPID").text != old


def test_a_reboot(fresh: VM) -> None:
    fresh.wait_ready()
    await_server(fresh)
    fresh.reboot()
    await_server(fresh)


def test_save_and_restore(fresh: VM, tmp_path: Path) -> None:
    fresh.wait_ready()
    await_server(fresh)
    fresh.run("echo kept >/root/kept")
    fresh.domain.save(str(tmp_path / "saved"))
    fresh.connection.restore(str(tmp_path / "saved"))
    with VM(fresh.connection.lookupByName(fresh.name)) as restored:
        assert restored.run("cat /root/kept; cat /proc/$PPID/comm").text == "kept\nexec\n"


def test_somebody_else_has_the_channel(fresh: VM) -> None:
    fresh.wait_ready()
    stream = fresh.connection.newStream()
    fresh.domain.openChannel(EXEC_PORT, stream)
    assert fresh.run("cat /proc/$PPID/comm").text == "qemu-ga\n"
    stream.abort()
    await_server(fresh)


@pytest.fixture
def root() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="there is no qemu-system-x86_64")
def test_clones_of_a_guest_that_was_frozen_with_the_channel_open(root: Path) -> None:
    image = build_guest(embed.default_cache_dir())
    xml = domain_xml("template", kernel=image.kernel, initrd=image.initrd, cmdline=image.cmdline, network="none")
    with ExitStack() as stack:
        connection = libvirt.open(embed.make_uri(root / "root"))
        stack.callback(connection.close)
        template = stack.enter_context(VM(embed.begin_template(connection, xml, root / "template", PAUSED)))
        template.domain.resume()
        template.wait_ready()
        await_server(template)
        template.run("sleep 1000 >/dev/null 2>&1 & echo $! >/run/background")
        embed.freeze(template.domain, root / "template")
        for name in ("one", "two"):
            vm = stack.enter_context(VM(embed.clone(connection, root / "template", name, PAUSED)))
            vm.domain.resume()
            assert vm.run("cat /proc/$PPID/comm; kill -0 $(cat /run/background) && echo on").text == "exec\non\n"
            assert vm.run(["cat"], input=name).text == name
