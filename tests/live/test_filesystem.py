"""filesystem: the guest reads and writes a directory of the host's, by virtiofs and by 9p."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm.guest import VM
from pytest_embedvm.libvirt import libvirtError, virConnect
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.plugin.session import Machines

SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
VIRTIOFSD = [Path(path) for path in ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")]

needs_virtiofsd = pytest.mark.skipif(
    os.geteuid() != 0 or not any(path.exists() for path in VIRTIOFSD), reason="there is no virtiofsd, or not as root"
)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    directory = tmp_path / "shared"
    (directory / "below").mkdir(parents=True)
    (directory / "below/file").write_text("the host's\n")
    return directory


@pytest.fixture
def start(
    embedvm_machines: Machines, embedvm_conn: virConnect, embedvm_domain_args: DomainArguments
) -> Callable[[str, DomainArguments], VM]:
    def start(devices: str, wanted: DomainArguments = embedvm_domain_args) -> VM:
        xml = embedvm_machines.domain_xml(wanted).replace("<os>", f"{SHARED}<os>", 1)
        vm = embedvm_machines.start(embedvm_conn, xml.replace("</devices>", f"{devices}</devices>"))
        vm.wait_ready()
        return vm

    return start


@needs_virtiofsd
@pytest.mark.embedvm(network="none")
def test_virtiofs(start: Callable[[str], VM], shared: Path) -> None:
    vm = start(f"<filesystem><driver type='virtiofs'/><source dir='{shared}'/><target dir='tag'/></filesystem>")
    vm.run("mount -t virtiofs tag /mnt")
    assert vm.read_text("/mnt/below/file") == "the host's\n"
    vm.run('echo "the guest\'s" >/mnt/new && mv /mnt/below /mnt/moved')
    assert (shared / "new").read_text() == "the guest's\n"
    assert (shared / "moved/file").exists()
    (shared / "later").write_text("seen\n")
    assert vm.read_text("/mnt/later") == "seen\n"
    vm.run("ln -s /etc/passwd /mnt/link")  # it leads to the guest's own
    assert vm.read_text("/mnt/link") == vm.read_text("/etc/passwd") != Path("/etc/passwd").read_text()
    assert vm.run("ls /mnt/../..; ls /mnt/..").text.split().count("new") == 0


@needs_virtiofsd
@pytest.mark.embedvm(network="none")
def test_a_virtiofsd_that_ends_at_once_says_why(
    embedvm_machines: Machines, embedvm_conn: virConnect, embedvm_domain_args: DomainArguments, tmp_path: Path
) -> None:
    device = f"<filesystem><driver type='virtiofs'/><source dir='{tmp_path}/none'/><target dir='tag'/></filesystem>"
    xml = embedvm_machines.domain_xml(embedvm_domain_args).replace("<os>", f"{SHARED}<os>", 1)
    with pytest.raises(libvirtError, match=r"virtiofsd of fs0(?: has failed|'): [^;]*none"):
        embedvm_conn.createXML(xml.replace("</devices>", f"{device}</devices>"), 0)


@pytest.mark.embedvm(network="none")
def test_9p(start: Callable[[str, DomainArguments], VM], full_kernel: DomainArguments, tmp_path: Path) -> None:
    devices = ""
    for tag, mode in (("passed", "passthrough"), ("mapped", "mapped"), ("squashed", "squash"), ("read", "passthrough")):
        (tmp_path / tag).mkdir()
        (tmp_path / tag / "file").write_text(f"{tag}\n")
        readonly = "<readonly/>" if tag == "read" else ""
        where = f"<source dir='{tmp_path}/{tag}'/><target dir='{tag}'/>"
        devices += f"<filesystem accessmode='{mode}'>{where}{readonly}</filesystem>"
    vm = start(devices, full_kernel)
    for tag in ("passed", "mapped", "squashed", "read"):
        vm.run(f"mkdir /mnt/{tag} && mount -t 9p -o trans=virtio,version=9p2000.L {tag} /mnt/{tag}")
        assert vm.read_text(f"/mnt/{tag}/file") == f"{tag}\n"
    # QEMU gives what it makes in passthrough to the guest's user, which only root can.
    for tag in ("passed", "mapped", "squashed") if os.geteuid() == 0 else ("mapped", "squashed"):
        vm.run(f"echo guest >/mnt/{tag}/new")
        assert (tmp_path / tag / "new").read_text() == "guest\n"
    vm.run("chown 1234 /mnt/mapped/new")
    assert vm.run("stat -c %u /mnt/mapped/new").text == "1234\n"
    assert (tmp_path / "mapped/new").stat().st_uid == os.geteuid()
    refused = vm.run("echo guest >/mnt/read/new", check=False)
    assert refused.returncode != 0
    assert b"Read-only" in refused.stderr
    assert [path.name for path in (tmp_path / "read").iterdir()] == ["file"]
