"""What the built-in guest promises, asked of a running one."""

from __future__ import annotations

from pytest_embedvm.guest.image.manifest import GuestImage
from tests.guest.image.conftest import AGENT, Machine


def test_root_answers(booted: Machine) -> None:
    assert booted.run("id -u; id -un").split() == ["0", "root"]


def test_the_release_is_the_one_told(booted: Machine, image: GuestImage) -> None:
    assert booted.run("uname -r").strip() == image.release


def test_drivers_of_what_is_there_are_loaded(booted: Machine) -> None:
    loaded = {line.split()[0] for line in booted.run("lsmod").splitlines()[1:]}
    builtin = booted.run("cat /lib/modules/$(uname -r)/modules.builtin")
    for driver in ("virtio_pci", "virtio_blk", "virtio_net", "virtio_console", "virtio_rng"):
        assert driver in loaded or f"/{driver}.ko" in builtin
    assert "xfs" not in loaded


def test_the_disk_can_be_read(booted: Machine) -> None:
    assert booted.run("head -c 11 /dev/vda") == "on the disk"


def test_modprobe_loads_the_rest_with_what_it_needs(booted: Machine) -> None:
    booted.run("modprobe isofs && modprobe overlay")
    assert {"iso9660", "overlay"} <= set(booted.run("cat /proc/filesystems").split())


def test_ports_have_their_names(booted: Machine) -> None:
    names = booted.run("cd /dev/virtio-ports && for p in *; do [ -c $p ] && echo $p; done").split()
    assert sorted(names) == ["org.example.other", AGENT]


def test_randomness_is_ready(booted: Machine) -> None:
    booted.console.await_match("crng init done")
    assert booted.run("head -c 16 /dev/random | wc -c").strip() == "16"


def test_randomness_is_ready_without_a_source(plain: Machine) -> None:
    plain.console.await_match("crng init done")
    assert plain.run("head -c 16 /dev/random | wc -c").strip() == "16"


def test_dhcp_gives_an_address_and_a_resolver(booted: Machine) -> None:
    booted.console.await_match(r"eth0 has the address 10\.0\.2\.15")
    assert "inet 10.0.2.15/24" in booted.run("ip -4 addr show eth0")
    assert "nameserver 10.0.2.3" in booted.run("cat /etc/resolv.conf")
    assert "default via 10.0.2.2" in booted.run("ip route")


def test_what_every_system_has(booted: Machine) -> None:
    types = {line.split()[2] for line in booted.run("cat /proc/mounts").splitlines() if line}
    assert types >= {"proc", "sysfs", "devtmpfs", "devpts", "tmpfs"}
    assert "127.0.0.1" in booted.run("ip addr show lo")
    assert booted.run("hostname").strip() == "guest"
    assert booted.run("ls -d /sbin/modprobe /usr/bin/env /var/run/. /dev/shm").split()


def test_the_console_is_a_root_shell(plain: Machine) -> None:
    plain.type("echo sum $((40+2)); tty\n", r"sum 42\r\n/dev/ttyS0\r\n# ")
    assert b"\x1b[6n" not in plain.console.seen


def test_the_console_has_job_control(plain: Machine) -> None:
    plain.type("(trap 'echo cau''ght; exit' INT; echo arm''ed; while :; do sleep 1; done)\n", "armed")
    plain.type("\x03", "caught\r\n.*# ")


def test_a_shell_that_ends_comes_back(plain: Machine) -> None:
    plain.type("exit\n", r"exit\r\n.*BusyBox.*\n# ")


def test_an_agent_that_dies_comes_back(plain: Machine) -> None:
    plain.type(
        "old=$(pidof qemu-ga); kill -9 $old; "
        'while new=$(pidof qemu-ga); [ "${new:-$old}" = "$old" ]; do usleep 10000; done; echo ba""ck\n',
        "back",
    )
    plain.agent("guest-ping")


def test_a_device_that_is_plugged_gets_its_driver(plain: Machine) -> None:
    assert "virtio_balloon" not in plain.run("lsmod")
    plain.execute("device_add", driver="virtio-balloon-pci", id="plugged", bus="root-port")
    plain.run("until lsmod | grep -q virtio_balloon; do usleep 20000; done")


def test_a_port_that_is_plugged_gets_its_name_until_it_goes(plain: Machine) -> None:
    plain.execute("chardev-add", id="late", backend={"type": "null", "data": {}})
    plain.execute("device_add", driver="virtserialport", id="late-port", chardev="late", name="org.example.late")
    plain.run("until [ -c /dev/virtio-ports/org.example.late ]; do usleep 20000; done")
    plain.execute("device_del", id="late-port")
    plain.run("while [ -L /dev/virtio-ports/org.example.late ]; do usleep 20000; done")


def test_the_power_button_powers_off(fresh: Machine) -> None:
    fresh.execute("system_powerdown")
    assert fresh.wait() == 0
    assert b"Power down" in fresh.console.seen


def test_the_agent_reboots_and_powers_off(fresh: Machine) -> None:
    before = len(fresh.console.seen)
    fresh.agent_line.send('{"execute": "guest-shutdown", "arguments": {"mode": "reboot"}}\n')
    fresh.console.await_match("embedvm: ready", before)
    fresh.agent("guest-ping")
    fresh.agent_line.send('{"execute": "guest-shutdown"}\n')
    assert fresh.wait() == 0


def test_poweroff_at_the_console(fresh: Machine) -> None:
    fresh.console.await_match(r"\n# $")
    fresh.console.send("poweroff\n")
    assert fresh.wait() == 0
