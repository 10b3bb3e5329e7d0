"""Clones of guests that have more than memory and disks: what each of these is in a clone, said by the guest."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_embedvm import embed, libvirt
from pytest_embedvm.driver.firmware import DIRECTORIES
from pytest_embedvm.guest import VM
from pytest_embedvm.plugin.markers import DomainArguments
from pytest_embedvm.plugin.session import Machines
from tests.live import test_tpm as tpm
from tests.live import test_uefi as uefi

PAUSED = libvirt.VIR_DOMAIN_START_PAUSED
MOUNT = "mount -t 9p -o trans=virtio,version=9p2000.L tag /mnt"


@pytest.fixture
def conn(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    with libvirt.open(embed.make_uri(tmp_path / "root")) as connection:
        yield connection


@contextlib.contextmanager
def attached(domain: libvirt.virDomain) -> Iterator[VM]:
    """The guest of DOMAIN, which answers."""
    with VM(domain) as vm:
        if domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
            domain.resume()
        vm.wait_ready(timeout=240)
        yield vm


def freeze(conn: libvirt.virConnect, xml: str, folder: Path, prepare: Callable[[VM], None]) -> Path:
    """The template in FOLDER of the guest of XML, after PREPARE."""
    assert embed.obstacles(conn, xml) == []
    domain = embed.begin_template(conn, xml, folder, PAUSED)
    with attached(domain) as vm:
        prepare(vm)
    embed.freeze(domain, folder)
    return folder


def variable(vm: VM, name: str, text: str | None = None) -> str:
    """The firmware's variable NAME, made if it has a TEXT; one that is there must not be written: it is immutable."""
    path = uefi.OURS.replace("Note", name)
    if text is not None:
        vm.run(["sh", "-c", 'cat >"$0"', path], input=struct.pack("<I", 7) + text.encode())
    return vm.read_bytes(path)[4:].decode()


def variables(vm: VM) -> set[str]:
    """Those of the names that are used here."""
    names = vm.run(["ls", uefi.VARIABLES]).text.split()
    return {name.split("-")[0] for name in names if name.endswith(uefi.OURS.partition("-")[2])}


@pytest.mark.skipif(
    not any(list(directory.glob("*.json")) for directory in DIRECTORIES), reason="the host has no UEFI firmware"
)
@pytest.mark.embedvm(firmware="efi", network="none")
def test_each_has_its_own_variables(conn: libvirt.virConnect, tmp_path: Path, embedvm_domain_xml: str) -> None:
    template = freeze(
        conn, embedvm_domain_xml, tmp_path / "template", lambda vm: variable(vm, "Base", "the template's")
    )
    store = tmp_path / "root/lib/qemu/nvram"
    assert not list(store.glob("*/*"))
    with attached(embed.clone(conn, template, "c")) as one, attached(embed.clone(conn, template, "d")) as other:
        assert variable(one, "Base") == variable(other, "Base") == "the template's"
        variable(one, "One", "of its own")
        one.reboot(timeout=240)  # what is in the firmware's memory is gone
        assert variable(one, "One") == "of its own"
        assert variables(one) == {"Base", "One"}
        assert variables(other) == {"Base"}
        domain = embed.reset_to_template(one.domain)
    with attached(domain) as one:
        assert variables(one) == {"Base"}
        variable(one, "Kept", "k")
        embed.checkpoint(domain, "kept")
        variable(one, "Lost", "l")
    with attached(embed.restore(domain, "kept")) as one:
        one.reboot(timeout=240)
        assert variables(one) == {"Base", "Kept"}
        one.domain.destroy()
    assert [path.parent.name for path in store.glob("*/*")] == ["d"]


@tpm.pytestmark
def test_each_has_its_own_tpm(conn: libvirt.virConnect, tmp_path: Path, embedvm_domain_xml: str) -> None:
    def prepare(vm: VM) -> None:
        tpm.extend(vm)
        tpm.define(vm)
        tpm.write(vm)

    xml = tpm.with_tpm(embedvm_domain_xml, tpm.TPM_2.format("tpm-crb", "", ""))
    template = freeze(conn, xml, tmp_path / "template", prepare)
    assert tpm.states(tmp_path / "root") == set()
    with attached(embed.clone(conn, template, "c")) as one, attached(embed.clone(conn, template, "d")) as other:
        assert tpm.states(tmp_path / "root") == {vm.domain.UUIDString() for vm in (one, other)}
        for vm in one, other:
            assert (tpm.register(vm), tpm.read(vm)) == (tpm.EXTENDED, tpm.NOTE)
        tpm.extend(one)
        assert tpm.register(one) != tpm.register(other) == tpm.EXTENDED
        one.reboot()
        assert (tpm.register(one), tpm.read(one)) == ("00" * 32, tpm.NOTE)
        domain = embed.reset_to_template(one.domain)
    with attached(domain) as one:
        assert (tpm.register(one), tpm.read(one)) == (tpm.EXTENDED, tpm.NOTE)


def test_a_shared_directory(
    conn: libvirt.virConnect, tmp_path: Path, embedvm_machines: Machines, full_kernel: DomainArguments
) -> None:
    """QEMU refuses to freeze a guest that has mounted it; until it is mounted it is as good as none."""
    (tmp_path / "shared").mkdir()
    device = f"<filesystem><source dir='{tmp_path}/shared'/><target dir='tag'/></filesystem>"
    xml = embedvm_machines.domain_xml(full_kernel).replace("</devices>", f"{device}</devices>")
    assert embed.obstacles(conn, xml) == []
    domain = embed.begin_template(conn, xml, tmp_path / "template", PAUSED)
    with attached(domain) as vm:
        vm.run(MOUNT)
        with pytest.raises(
            libvirt.libvirtError, match=r"the guest cannot be made a template: .*shared' is mounted in the guest"
        ) as caught:
            embed.freeze(domain, tmp_path / "template")
        assert caught.value.get_error_code() == libvirt.VIR_ERR_OPERATION_FAILED
        with pytest.raises(libvirt.libvirtError, match="is no template"):
            embed.clone(conn, tmp_path / "template", "c")
        vm.run("echo still here >/mnt/file; umount /mnt")
    embed.freeze(domain, tmp_path / "template")
    with attached(embed.clone(conn, tmp_path / "template", "c")) as vm:
        vm.run(MOUNT)
        assert vm.read_text("/mnt/file") == "still here\n"
