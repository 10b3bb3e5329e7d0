"""cloud-init itself, in a Debian that is made once of its packages: a seed's every part is seen in the guest."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.guest import VM
from pytest_embedvm.guest.cloud_init import Seed
from pytest_embedvm.plugin.images import Images
from pytest_embedvm.plugin.preparing import Preparation

PROGRAMS = ("mmdebstrap", "mke2fs", "debugfs")
#: Not the one of the host: what the mirror has newest may differ.
KERNEL = "linux-image-cloud-amd64"
PACKAGES = ("systemd-sysv", "udev", "cloud-init", "qemu-guest-agent", "sudo", "iproute2", KERNEL)
BUILD_TIMEOUT_S = 900

pytestmark = [
    pytest.mark.skipif(
        not all(shutil.which(program) for program in PROGRAMS), reason=f"one of {', '.join(PROGRAMS)} is not installed"
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="the owners of a Debian's files are kept by root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the kernel is one for x86_64"),
    pytest.mark.timeout(1800),
]


@pytest.fixture(scope="session")
def embedvm_images(embedvm_images: Images) -> Images:
    @embedvm_images.register("debian", version=" ".join(PACKAGES))
    def debian(build: Preparation) -> None:
        tree = build.folder / "tree"
        links = 'cp -L "$1/vmlinuz" "$1/kernel"; cp -L "$1/initrd.img" "$1/initrd"'
        words = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}"]
        done = subprocess.run(
            [*words, f"--customize-hook={links}", "bookworm", tree],
            capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            pytest.skip(f"no Debian can be made here: {done.stderr[-500:]}")
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, build.image, "1500M"], check=True)

    return embedvm_images


@pytest.fixture
def boot(embedvm_images: Images, vm_factory: Callable[..., VM], tmp_path: Path) -> Callable[[Seed], VM]:
    disk = embedvm_images["debian"]
    for name in ("kernel", "initrd"):
        subprocess.run(["debugfs", "-R", f"dump /{name} {tmp_path / name}", disk], check=True, capture_output=True)

    def boot(seed: Seed) -> VM:
        return vm_factory(
            image="debian",
            kernel=tmp_path / "kernel",
            initrd=tmp_path / "initrd",
            cmdline="root=/dev/vda rw",
            cloud_init=seed,
            memory=768,
            timeout=900,
        )

    return boot


def test_a_debian_boots_configured(boot: Callable[[Seed], VM]) -> None:
    vm = boot(
        Seed(
            hostname="web",
            user="tester",
            ssh_keys=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEmbedVM tester"],
            files={"/etc/app.conf": "port: 80\n", "/srv/binary": b"\xff\0"},
            commands=["echo 'one: two' >/run/said", ["touch", "/run/a file"]],
            config={"locale": False},  # the small Debian has no locales
        )
    )
    vm.run(["cloud-init", "status", "--wait"], timeout=900)
    assert vm.run("hostname").text == "web\n"
    assert "tester" in vm.read_text("/etc/passwd")
    assert vm.read_text("/home/tester/.ssh/authorized_keys").endswith("AAAAC3NzaC1lZDI1NTE5AAAAIEmbedVM tester\n")
    assert vm.run("su tester -c 'sudo -n id -u'").text == "0\n"
    assert vm.read_text("/etc/app.conf") == "port: 80\n"
    assert vm.read_bytes("/srv/binary") == b"\xff\0"
    assert vm.read_text("/run/said") == "one: two\n"
    assert vm.run(["test", "-e", "/run/a file"]).returncode == 0
