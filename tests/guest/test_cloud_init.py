"""cloud_init: a seed is YAML, on a disk that a kernel mounts."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.guest.cloud_init import LABEL, Seed

FULL = Seed(
    hostname="web",
    user="tester",
    ssh_keys=["ssh-ed25519 AAAA tester"],
    files={"/etc/app.conf": "port: 80\n", "/srv/binary": b"\xff\0"},
    packages=["curl"],
    commands=["echo 'one: two' >/run/said", ["touch", "/run/a file"]],
    network={"version": 2, "ethernets": {"all": {"match": {"name": "e*"}, "dhcp4": True}}},
    config={"timezone": "UTC"},
    instance_id="i-1",
)


def test_cloud_config_is_what_was_asked_for() -> None:
    head, _, body = FULL.user_data().partition("\n")
    assert head == "#cloud-config"
    assert json.loads(body) == {
        "hostname": "web",
        "users": [
            {
                "name": "tester",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "shell": "/bin/sh",
                "ssh_authorized_keys": ["ssh-ed25519 AAAA tester"],
            }
        ],
        "write_files": [
            {"path": "/etc/app.conf", "encoding": "b64", "content": "cG9ydDogODAK"},
            {"path": "/srv/binary", "encoding": "b64", "content": "/wA="},
        ],
        "packages": ["curl"],
        "runcmd": ["echo 'one: two' >/run/said", ["touch", "/run/a file"]],
        "timezone": "UTC",
    }
    assert json.loads(FULL.meta_data()) == {"instance-id": "i-1", "local-hostname": "web"}


def test_nothing_is_said_of_what_is_left_out() -> None:
    seed = Seed(ssh_keys=["key"])
    assert json.loads(seed.user_data().partition("\n")[2]) == {"ssh_authorized_keys": ["key"]}
    assert json.loads(seed.meta_data()) == {"instance-id": seed.instance_id}
    assert seed.network_config() is None
    assert seed.instance_id != Seed().instance_id


def test_files_are_not_in_its_repr() -> None:
    assert "hush" not in repr(Seed(files={"/etc/key": "hush"}, config={"password": "hush"}))


@pytest.mark.skipif(shutil.which("cloud-init") is None, reason="cloud-init is not installed")
def test_it_is_what_cloud_init_knows(tmp_path: Path) -> None:
    (tmp_path / "user-data").write_text(FULL.user_data())
    subprocess.run(["cloud-init", "schema", "--config-file", tmp_path / "user-data"], check=True)


def test_the_disk_has_the_label_and_is_private(tmp_path: Path) -> None:
    disk = FULL.write(tmp_path / "seed.iso")
    assert stat.S_IMODE(disk.stat().st_mode) == 0o600
    descriptor = disk.read_bytes()[16 * 2048 : 17 * 2048]  # ECMA-119: the primary volume descriptor
    assert descriptor[:6] == b"\x01CD001"
    assert descriptor[40:72].decode().rstrip() == LABEL
    with pytest.raises(FileExistsError):
        FULL.write(disk)


def test_a_guest_reads_it_and_cannot_write_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest
        from pytest_embedvm.guest.cloud_init import Seed

        SEED = Seed(hostname="web", files={"/etc/big": "x" * 100000}, network={"version": 2})

        @pytest.mark.embedvm(cloud_init=SEED, network="none")
        def test_it(vm):
            vm.run("mount -t iso9660 -o ro /dev/vda /mnt")
            assert vm.run("ls /mnt").text.split() == ["meta-data", "network-config", "user-data"]
            assert vm.read_text("/mnt/user-data") == SEED.user_data()
            assert vm.read_text("/mnt/meta-data") == SEED.meta_data()
            assert vm.read_text("/mnt/network-config") == SEED.network_config()
            assert vm.run("echo x >/dev/vda", check=False).returncode != 0
        """
    )
    pytester.runpytest_subprocess("--embedvm", "-p", "no:randomly").assert_outcomes(passed=1)


@pytest.mark.parametrize("wrong", ["'text'", "{'hostname': 'web'}"])
def test_the_marker_takes_a_seed(pytester: pytest.Pytester, wrong: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.embedvm(cloud_init={wrong})\ndef test_it(vm): pass")
    result = pytester.runpytest("--embedvm")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*must be a pytest_embedvm.guest.cloud_init.Seed*"])
