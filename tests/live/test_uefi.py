"""What a guest has of its UEFI firmware: it reads, and writes, the variables itself."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver.firmware import DIRECTORIES
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM

pytestmark = pytest.mark.skipif(
    not any(list(directory.glob("*.json")) for directory in DIRECTORIES), reason="the host has no UEFI firmware"
)

VARIABLES = "/sys/firmware/efi/efivars"
SECURE_BOOT = f"{VARIABLES}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
OURS = f"{VARIABLES}/Note-01234567-89ab-cdef-0123-456789abcdef"
RESET = libvirt.VIR_DOMAIN_START_RESET_NVRAM


def write(vm: VM, text: str) -> None:
    """A variable that stays (its attributes: non-volatile, seen while booting and by the system)."""
    vm.run(["sh", "-c", 'cat >"$0"', OURS], input=struct.pack("<I", 7) + text.encode())  # in one piece


def read(vm: VM) -> str:
    return vm.read_bytes(OURS)[4:].decode()


def booted(domain: libvirt.virDomain) -> VM:
    vm = VM(domain)
    vm.wait_ready(timeout=240)
    return vm


@pytest.mark.embedvm(firmware="efi", network="none")
def test_variables_are_those_of_one_machine(tmp_path: Path, embedvm_domain_xml: str) -> None:
    root = tmp_path / "root"
    with libvirt.open(make_uri(root)) as connection:
        domain = connection.defineXML(embedvm_domain_xml)
        domain.create()
        with booted(domain) as vm:
            assert vm.read_bytes(SECURE_BOOT)[4:] == b"\0"
            write(vm, "remember me")
        domain.destroy()
        domain.create()
        with booted(domain) as vm:
            assert read(vm) == "remember me"
        domain.destroy()
        store = root / "lib/qemu/nvram/vm/VARS.fd"
        assert store.stat().st_mode & 0o777 == 0o600
        with pytest.raises(libvirt.libvirtError, match="cannot undefine domain with nvram"):
            domain.undefine()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
        assert not store.exists()


@pytest.mark.embedvm(firmware="efi-secure-boot", network="none", timeout=240)
def test_secure_boot(vm: VM) -> None:
    assert vm.read_bytes(SECURE_BOOT)[4:] == b"\1"
    assert "Secure boot enabled" in vm.run("dmesg").text
    assert vm.run(["ls", VARIABLES]).text.count("Note-") == 0
