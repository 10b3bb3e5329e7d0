"""What a guest has of its TPM. It speaks to it itself, through /dev/tpm0."""

from __future__ import annotations

import hashlib
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM

pytestmark = pytest.mark.skipif(shutil.which("swtpm") is None, reason="there is no swtpm")

TPM_2 = "<tpm model='{}'><backend type='emulator' version='2.0'{}>{}</backend></tpm>"
TPM_12 = "<tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>"
EXCHANGE = "exec 3<>/dev/tpm0; cat >&3; dd bs=4096 count=1 <&3 2>/dev/null"
#: TPM 2.0, part 2: an empty password of the one who authorizes, TPM_RH_OWNER, TPM_RS_PW.
OWNER, PASSWORD = 0x40000001, struct.pack(">IIHBH", 9, 0x40000009, 0, 0, 0)
INDEX, NOTE = 0x01500010, b"remember me"
DIGEST = hashlib.sha256(b"an event").digest()


def with_tpm(xml: str, tpm: str) -> str:
    return xml.replace("</devices>", f"{tpm}</devices>")


def ask(vm: VM, tag: int, code: int, body: bytes) -> bytes:
    """The TPM's answer after its header; it has to say that all is well."""
    answer = vm.run(["sh", "-c", EXCHANGE], input=struct.pack(">HII", tag, 10 + len(body), code) + body).stdout
    _, size, status = struct.unpack_from(">HII", answer)
    assert (size, status) == (len(answer), 0)
    return answer[10:]


def define(vm: VM) -> None:
    """TPM2_NV_DefineSpace: owner and index's password may read and write."""
    public = struct.pack(">IHIHH", INDEX, 0x000B, 0x02060006, 0, len(NOTE))
    ask(vm, 0x8002, 0x12A, struct.pack(">I", OWNER) + PASSWORD + struct.pack(">HH", 0, len(public)) + public)


def write(vm: VM) -> None:
    """TPM2_NV_Write."""
    ask(vm, 0x8002, 0x137, struct.pack(">II", OWNER, INDEX) + PASSWORD + struct.pack(">H", len(NOTE)) + NOTE + b"\0\0")


def read(vm: VM) -> bytes:
    """TPM2_NV_Read."""
    asked = struct.pack(">II", OWNER, INDEX) + PASSWORD + struct.pack(">HH", len(NOTE), 0)
    return ask(vm, 0x8002, 0x14E, asked)[6:][: len(NOTE)]


def extend(vm: VM) -> None:
    """TPM2_PCR_Extend of register 16."""
    ask(vm, 0x8002, 0x182, struct.pack(">I", 16) + PASSWORD + struct.pack(">IH", 1, 0x000B) + DIGEST)


def register(vm: VM, number: int = 16, bank: str = "sha256") -> str:
    return vm.run(f"cat /sys/class/tpm/tpm0/pcr-{bank}/{number}").text.strip().lower()


EXTENDED = hashlib.sha256(bytes(32) + DIGEST).hexdigest()


def states(root: Path) -> set[str]:
    return {path.name for path in (root / "lib/swtpm").glob("*-*")}


def booted(domain: libvirt.virDomain) -> VM:
    vm = VM(domain)
    vm.wait_ready()
    return vm


def test_it_remembers_as_long_as_its_domain_is_known(tmp_path: Path, embedvm_domain_xml: str) -> None:
    root = tmp_path / "root"
    with libvirt.open(make_uri(root)) as connection:
        domain = connection.defineXML(with_tpm(embedvm_domain_xml, TPM_2.format("tpm-crb", "", "")))
        domain.create()
        with booted(domain) as vm:
            assert vm.run("cat /sys/class/tpm/tpm0/tpm_version_major").text == "2\n"
            random = ask(vm, 0x8001, 0x17B, struct.pack(">H", 16))
            assert random[:2] == b"\0\x10"
            assert random != ask(vm, 0x8001, 0x17B, struct.pack(">H", 16))
            assert register(vm) == "00" * 32
            extend(vm)
            assert register(vm) == EXTENDED
            define(vm)
            write(vm)
            # A reset of the machine resets the registers and keeps what was written.
            vm.reboot()
            assert register(vm) == "00" * 32
            assert read(vm) == NOTE
        domain.destroy()
        domain.create()
        with booted(domain) as vm:
            assert read(vm) == NOTE
            # A machine that is saved goes on with its registers, too.
            extend(vm)
            domain.save(str(tmp_path / "saved"))
            connection.restore(str(tmp_path / "saved"))
        with booted(connection.lookupByName(domain.name())) as vm:
            assert (register(vm), read(vm)) == (EXTENDED, NOTE)
        domain.destroy()
        assert states(root) == {domain.UUIDString()}
        domain.undefine()
        assert states(root) == set()


def test_the_old_kind_and_a_transient_machine(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, embedvm_root: Path, vm_factory: Callable[..., VM]
) -> None:
    elsewhere = "<rng model='virtio'><backend model='builtin'/></rng>"  # it is put behind a port
    vm = vm_factory(xml=with_tpm(embedvm_domain_xml, TPM_12 + elsewhere))
    vm.wait_until(lambda: vm.run("ls -d /sys/bus/virtio/drivers/virtio_rng/virtio*").text.count("\n") == 2, timeout=60)
    assert vm.run("cat /sys/class/tpm/tpm0/tpm_version_major").text == "1\n"
    assert "PCR-00:" in vm.run("cat /sys/class/tpm/tpm0/device/pcrs || cat /sys/class/tpm/tpm0/pcrs").text
    digest = hashlib.sha1(b"an event").digest()
    extended = ask(vm, 0x00C1, 0x14, struct.pack(">I", 16) + digest)
    assert extended == hashlib.sha1(bytes(20) + digest).digest()
    assert ask(vm, 0x00C1, 0x15, struct.pack(">I", 16)) == extended
    assert len(states(embedvm_root)) == 1
    vm.domain.destroy()
    assert states(embedvm_root) == set()


def test_what_it_remembers_is_encrypted_with_a_secret(tmp_path: Path, embedvm_domain_xml: str) -> None:
    root = tmp_path / "root"
    with libvirt.open(make_uri(root)) as connection:
        secret = connection.secretDefineXML(
            "<secret private='yes'><usage type='vtpm'><name>tpm</name></usage></secret>"
        )
        secret.setValue(b"correct horse battery staple")
        encryption = f"<encryption secret='{secret.UUIDString()}'/>"
        banks = "<active_pcr_banks><sha1/><sha512/></active_pcr_banks>"
        xml = with_tpm(embedvm_domain_xml, TPM_2.format("tpm-tis", " persistent_state='yes'", encryption + banks))
        domain = connection.defineXML(xml)
        domain.create()
        with booted(domain) as vm:
            assert register(vm, bank="sha512") == "00" * 64
            assert vm.run("ls /sys/class/tpm/tpm0").text.count("pcr-") == 2
            define(vm)
            write(vm)
        domain.destroy()
        (state,) = (root / "lib/swtpm" / domain.UUIDString()).glob("tpm2/*.permall")
        assert NOTE not in state.read_bytes()
        domain.create()
        with booted(domain) as vm:
            assert read(vm) == NOTE
        domain.destroy()
        secret.setValue(b"another")
        with pytest.raises(libvirt.libvirtError, match="swtpm"):
            domain.create()
        secret.undefine()
        with pytest.raises(libvirt.libvirtError, match="no secret with matching uuid"):
            domain.create()
        domain.undefine()
        assert states(root) == {domain.UUIDString()}
    said = [file.read_bytes() for file in root.rglob("*") if file.is_file()]
    assert not any(b"correct horse" in content for content in said)
