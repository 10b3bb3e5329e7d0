"""Secrets that QEMU is given: what the guest reads with them, and who does not get in without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM
from tests.fakes.luks import make_luks
from tests.live.conftest import PAUSED, xml

UUID = "11111111-2222-3333-4444-555555555555"
CONTENT = b"what the guest is to read".ljust(512, b"!")
PASSPHRASE = b"open \xc3\xa4 sesame, please"
LUKS = "<encryption format='luks'><secret type='passphrase' {}/></encryption>"


def disk(path: Path, dev: str = "vdx", kind: str = "raw", within: str = "", beside: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{path}'>{within}</source>"
        f"<target dev='{dev}' bus='virtio'/>{beside}</disk>"
    )


def define(connection: libvirt.virConnect, volume: str = "/v", value: bytes | None = PASSPHRASE) -> libvirt.virSecret:
    usage = f"<usage type='volume'><volume>{volume}</volume></usage>"
    secret = connection.secretDefineXML(f"<secret private='yes'><uuid>{UUID}</uuid>{usage}</secret>")
    if value is not None:
        secret.setValue(value)
    return secret


def failure(call: Callable[[], object]) -> tuple[int, int, str]:
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    error = caught.value
    return error.get_error_code() or 0, error.get_error_domain() or 0, error.get_error_message() or ""


def test_the_guest_reads_an_encrypted_disk(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM], tmp_path: Path
) -> None:
    define(embedvm_conn)
    volume = make_luks(tmp_path / "volume.luks", PASSPHRASE, CONTENT)
    inside = make_luks(tmp_path / "inside.qcow2", PASSPHRASE, CONTENT, "qcow2")
    assert CONTENT not in volume.read_bytes() + inside.read_bytes()
    disks = disk(volume, "vdx", beside=LUKS.format(f"uuid='{UUID}'"))
    disks += disk(inside, "vdy", "qcow2", within=LUKS.format("usage='/v'"))
    vm = vm_factory(xml=embedvm_domain_xml.replace("</devices>", f"{disks}</devices>"))
    assert vm.run("cat /sys/block/vda/size /sys/block/vdb/size").text.split() == ["2048", "2048"]
    for device in ("vda", "vdb"):
        assert vm.run(f"head -c {len(CONTENT)} /dev/{device}").stdout == CONTENT
    vm.run("echo -n the guest was here | dd of=/dev/vda bs=512 conv=notrunc,fsync")
    assert b"the guest was here" not in volume.read_bytes()
    live = vm.domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
    assert live.count("<encryption format='luks' engine='qemu'>") == 2


def test_the_guest_reads_an_encrypted_disk_that_is_plugged_in(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM], tmp_path: Path
) -> None:
    vm = vm_factory(xml=embedvm_domain_xml)
    volumes = {name: make_luks(tmp_path / name, PASSPHRASE, CONTENT) for name in ("one", "two")}
    encrypted = {name: disk(path, "vdx", beside=LUKS.format("usage='/v'")) for name, path in volumes.items()}
    define(embedvm_conn, value=b"wrong")
    *_, message = failure(lambda: vm.domain.attachDevice(encrypted["one"]))
    assert "Invalid password, cannot unlock any keyslot" in message
    define(embedvm_conn)
    for name in ("one", "two"):  # the second finds the key there
        assert vm.domain.attachDevice(encrypted[name]) == 0
        vm.wait_until(lambda: vm.run("test -b /dev/vda", check=False).returncode == 0, timeout=60, message="a disk")
        assert vm.run(f"head -c {len(CONTENT)} /dev/vda").stdout == CONTENT
        assert vm.domain.detachDevice(encrypted[name]) == 0
        vm.wait_until(lambda: "vdx" not in vm.domain.XMLDesc(), timeout=60, message="no disk")


def test_a_kept_machine_has_its_key_when_it_is_found_again(tmp_path: Path) -> None:
    root = make_uri(tmp_path / "kept")
    first, second = (make_luks(tmp_path / name, PASSPHRASE) for name in ("first", "second"))
    room = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 6))
    with libvirt.open(root, keep_running=True) as connection:
        define(connection)
        devices = room + disk(first, "vda", beside=LUKS.format("usage='/v'"))
        connection.createXML(xml("kept", devices), PAUSED)
    with libvirt.open(root) as connection:
        domain = connection.lookupByName("kept")
        assert domain.attachDevice(disk(second, "vdb", beside=LUKS.format("usage='/v'"))) == 0
        domain.destroy()


def test_a_volume_of_a_pool(embedvm_conn: libvirt.virConnect) -> None:
    secret = define(embedvm_conn)
    encryption = LUKS.format("usage='/v'")
    embedvm_conn.storagePoolLookupByName("default").createXML(
        "<volume><name>data</name><capacity unit='MiB'>1</capacity>"
        f"<target><format type='raw'/>{encryption}</target></volume>"
    )
    encrypted = (
        "<disk type='volume' device='disk'><driver name='qemu' type='raw'/><source pool='default' volume='data'/>"
        f"<target dev='vda' bus='virtio'/>{encryption}</disk>"
    )
    embedvm_conn.createXML(xml(devices=encrypted), PAUSED).destroy()
    secret.setValue(b"wrong")
    *_, message = failure(lambda: embedvm_conn.createXML(xml(devices=encrypted), PAUSED))
    assert "Invalid password, cannot unlock any keyslot" in message


@pytest.mark.parametrize("kind", ["luks", "qcow2"])
def test_a_wrong_passphrase_says_so(embedvm_conn: libvirt.virConnect, tmp_path: Path, kind: str) -> None:
    define(embedvm_conn, value=b"wrong")
    volume = make_luks(tmp_path / "volume", PASSPHRASE, kind=kind)
    encrypted = disk(volume, "vda", "raw" if kind == "luks" else kind, beside=LUKS.format(f"uuid='{UUID}'"))
    code, domain, message = failure(lambda: embedvm_conn.createXML(xml(devices=encrypted), PAUSED))
    assert (code, domain) == (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_QEMU)
    assert "Invalid password, cannot unlock any keyslot" in message
    assert "wrong" not in message


def test_what_is_not_there_says_so(embedvm_conn: libvirt.virConnect, tmp_path: Path) -> None:
    """The sentences and codes are libvirt 9.0's."""
    volume = make_luks(tmp_path / "volume", PASSPHRASE)

    def start(said: str) -> tuple[int, int, str]:
        encrypted = disk(volume, "vda", beside=LUKS.format(said))
        return failure(lambda: embedvm_conn.createXML(xml(devices=encrypted), PAUSED))

    missing, secret = libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_FROM_SECRET
    assert start(f"uuid='{UUID}'") == (missing, secret, f"Secret not found: no secret with matching uuid '{UUID}'")
    assert start("usage='/v'") == (missing, secret, "Secret not found: no secret with matching usage '/v'")
    define(embedvm_conn, value=None)
    assert start("usage='/v'") == (missing, secret, f"Secret not found: secret '{UUID}' does not have a value")
    other = embedvm_conn.secretDefineXML("<secret><usage type='ceph'><name>c</name></usage></secret>")
    other.setValue(b"x")
    sentence = f"secret with uuid {other.UUIDString()} is of type 'ceph' not expected 'volume' type"
    assert start(f"uuid='{other.UUIDString()}'") == (
        libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_FROM_NONE, f"invalid argument: {sentence}"
    )  # fmt: skip
    assert embedvm_conn.numOfDomains() == 0


def test_the_key_is_private_and_goes_with_its_machine(
    embedvm_conn: libvirt.virConnect, embedvm_root: Path, tmp_path: Path
) -> None:
    define(embedvm_conn)
    encrypted = disk(make_luks(tmp_path / "volume", PASSPHRASE), "vda", beside=LUKS.format("usage='/v'"))
    first = embedvm_conn.createXML(xml("a", encrypted), PAUSED)
    plain = embedvm_conn.createXML(xml("b"), PAUSED)
    (key,) = embedvm_root.rglob("*.aes")
    assert key.parent.name == f"domain-{first.ID()}-a"
    assert (key.stat().st_mode & 0o777, key.stat().st_size, key.stat().st_uid) == (0o600, 32, os.geteuid())
    first.destroy()
    assert not key.exists()
    plain.destroy()
