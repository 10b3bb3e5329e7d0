"""The built-in guest on real QEMU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM, CommandFailed, CommandTimeout, GuestError, GuestStopped

MIB = 1 << 20


def test_the_libvirt_object_is_beneath(shared: VM) -> None:
    assert isinstance(shared.domain, libvirt.virDomain)
    assert isinstance(shared.connection, libvirt.virConnect)
    assert shared.name == shared.domain.name() == "shared"
    assert shared.is_running


def test_commands(shared: VM) -> None:
    assert shared.run(["id", "-u"]).text == "0\n"
    result = shared.run('read -r line; echo "$A $line $PWD"; echo err >&2', input="in", env={"A": "a b"}, cwd="/proc")
    assert (result.text, result.err) == ("a b in /proc\n", "err\n")
    with pytest.raises(CommandFailed, match="exited with status 3"):
        shared.run("exit 3")
    assert shared.run(["/no/such"], check=False).returncode == 127


def test_large_input_and_output(shared: VM) -> None:
    data = os.urandom(MIB + 1)
    assert shared.run(["cat"], input=data).stdout == data


def test_a_timeout_kills(shared: VM) -> None:
    with pytest.raises(CommandTimeout) as caught:
        shared.run("echo begun; sleep 999; echo never", timeout=5)
    assert caught.value.stdout == b"begun\n"
    assert "sleep 999" not in shared.run(["ps"]).text


@pytest.mark.parametrize("size", [MIB, 20 * MIB])
def test_files(shared: VM, size: int) -> None:
    data, path = os.urandom(size), f"/root/file{size}"
    shared.write_bytes(path, data, 0o640)
    assert shared.run(["sh", "-c", "stat -c '%a %s' \"$0\"; rm -f /root/none", path]).text == f"640 {size}\n"
    assert shared.read_bytes(path) == data
    shared.run(["rm", path])


def test_directories(shared: VM, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "script").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tree" / "sub" / "script").chmod(0o711)
    shared.push(tmp_path / "tree", "/root/tree")
    assert shared.run(["/root/tree/sub/script"]).text == "ran\n"
    shared.pull("/root/tree", tmp_path / "back")
    assert (tmp_path / "back" / "sub" / "script").stat().st_mode & 0o777 == 0o711
    shared.run(["rm", "-r", "/root/tree"])


def test_nothing_of_the_boot_is_missing_from_the_console(shared: VM) -> None:
    shared.console.wait_for("embedvm: ready", from_start=True)
    assert "Linux version" in shared.console.text.splitlines()[0]


def test_typing_at_the_shell(fresh: VM) -> None:
    fresh.console.wait_for("^# $")
    fresh.console.sendline("echo h''i")
    assert fresh.console.wait_for("^hi$")
    fresh.console.sendline("echo ru''n; cat")
    fresh.console.wait_for("^run$")  # what is typed ahead, the shell's line editor may take
    fresh.console.send("typed\n\x04")
    assert fresh.console.wait_for("^typed\ntyped\n# $")


def test_the_console_is_taken(shared: VM) -> None:
    with pytest.raises(libvirt.libvirtError, match="Active console session exists"):
        VM(shared.domain)


def test_reboot_and_shutdown(fresh: VM) -> None:
    fresh.wait_ready()
    boot_id = fresh.read_text("/proc/sys/kernel/random/boot_id")
    fresh.reboot()
    assert fresh.read_text("/proc/sys/kernel/random/boot_id") != boot_id
    fresh.shutdown()
    assert not fresh.is_running
    assert "Power down" in fresh.console.text
    with pytest.raises(GuestStopped, match="the guest powered off while"):
        fresh.run("true")
    with pytest.raises(GuestError):
        fresh.console.send("x")


def test_a_panic_is_noticed(fresh: VM) -> None:
    fresh.wait_ready()
    with pytest.raises(GuestStopped, match=r"is dead \(Kernel panic - not syncing: sysrq triggered crash\)"):
        fresh.run("echo c > /proc/sysrq-trigger")
    with pytest.raises(GuestStopped):
        fresh.shutdown()
    fresh.domain.reset()
    fresh.wait_ready()
    assert fresh.run("echo alive").text == "alive\n"


def test_the_end_of_qemu_is_noticed(fresh: VM) -> None:
    fresh.wait_ready()
    fresh.run("(sleep 1; echo o > /proc/sysrq-trigger) >/dev/null 2>&1 &")
    with pytest.raises(GuestStopped, match="the guest powered off while"):
        fresh.run("sleep 60")


def test_an_agent_that_is_killed_comes_back(fresh: VM) -> None:
    fresh.wait_ready()
    old = fresh.run(["pidof", "qemu-ga"]).text
    fresh.console.wait_for("^# $")
    fresh.console.sendline("kill -9 $(pidof qemu-ga); echo kil''led")
    fresh.console.wait_for("^killed$")
    fresh.wait_ready()
    assert fresh.run(["pidof", "qemu-ga"]).text != old
