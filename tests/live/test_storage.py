"""What guests do with the volumes of their root's pools. They confirm it themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from pytest_embedvm.guest import VM
from tests.live.conftest import xml

PASSPHRASE = b"a passphrase of the test"
SECRET = "22222222-2222-2222-2222-222222222222"
LUKS = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"
PAUSED = libvirt.VIR_DOMAIN_START_PAUSED


def disk(name: str, dev: str, kind: str = "raw", pool: str = "default", more: str = "") -> str:
    return (
        f"<disk type='volume' device='disk'><driver name='qemu' type='{kind}'/><source pool='{pool}' volume='{name}'/>"
        f"<target dev='{dev}' bus='virtio'/>{more}</disk>"
    )


def volume(name: str, target: str = "", more: str = "") -> str:
    return f"<volume><name>{name}</name><capacity unit='MiB'>1</capacity>{more}<target>{target}</target></volume>"


def upload(volume: libvirt.virStorageVol, content: bytes) -> None:
    stream = volume.connect().newStream()
    volume.upload(stream, 0, 0)
    pieces = [content]
    stream.sendAll(lambda *_: pieces.pop() if pieces else b"", None)
    stream.finish()


def download(volume: libvirt.virStorageVol, size: int) -> bytes:
    stream = volume.connect().newStream()
    volume.download(stream, 0, size)
    pieces: list[bytes] = []
    stream.recvAll(lambda _stream, data, _opaque: pieces.append(data), None)
    stream.finish()
    return b"".join(pieces)


def failure(call: Callable[[], object]) -> str:
    with pytest.raises(libvirt.libvirtError) as caught:
        call()
    return caught.value.get_error_message() or ""


def test_the_guest_reads_and_writes_volumes(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM]
) -> None:
    pool = embedvm_conn.storagePoolLookupByName("default")
    embedvm_conn.secretDefineXML(
        f"<secret><uuid>{SECRET}</uuid><usage type='volume'><volume>/v</volume></usage></secret>"
    ).setValue(PASSPHRASE)
    raw = pool.createXML(volume("raw"))
    upload(raw, b"uploaded by the host")
    backing = f"<backingStore><path>{raw.path()}</path><format type='raw'/></backingStore>"
    pool.createXML(volume("over", "<format type='qcow2'/>", backing))
    luks = pool.createXML(volume("luks", LUKS))
    later = pool.createXML(volume("later"))
    upload(later, b"for later")

    disks = disk("over", "vdx", "qcow2") + disk("luks", "vdy", more=LUKS)
    vm = vm_factory(xml=embedvm_domain_xml.replace("</devices>", f"{disks}</devices>"))
    assert vm.run("cat /sys/block/vda/size /sys/block/vdb/size").text.split() == ["2048", "2048"]
    assert vm.run("head -c 20 /dev/vda").stdout == b"uploaded by the host"
    vm.run("echo -n written by the guest | dd of=/dev/vda conv=notrunc,fsync")
    vm.run("echo -n a word in the dark | dd of=/dev/vdb conv=notrunc,fsync")
    assert vm.run("head -c 18 /dev/vdb").stdout == b"a word in the dark"
    assert b"a word in the dark" not in Path(luks.path()).read_bytes()
    live = vm.domain.XMLDesc()
    assert live.count("<disk type='volume'") == 2
    assert "<source pool='default' volume='over' index='" in live
    assert raw.path() in live  # it was followed to what it stands on

    vm.domain.attachDevice(disk("later", "vdz"))
    vm.wait_until(lambda: vm.run("test -b /dev/vdc", check=False).returncode == 0, timeout=60, message="the disk")
    assert vm.run("head -c 9 /dev/vdc").stdout == b"for later"
    vm.run("echo -n plugged in | dd of=/dev/vdc conv=notrunc,fsync")
    assert download(later, 10) == b"plugged in"

    vm.close()
    vm.domain.destroy()
    assert download(raw, 20) == b"uploaded by the host"
    flat = pool.createXMLFrom("<volume><name>flat</name></volume>", pool.storageVolLookupByName("over"))
    assert download(flat, 20) == b"written by the guest"


def test_a_volume_that_is_not_there_is_an_error_at_the_start(embedvm_conn: libvirt.virConnect) -> None:
    pool = embedvm_conn.storagePoolLookupByName("default")
    domain = embedvm_conn.defineXML(xml("a", disk("none", "vda")))
    assert failure(domain.create) == "Storage volume not found: no storage vol with matching name 'none'"
    pool.createXML(volume("none"))
    pool.destroy()
    assert failure(domain.create) == (
        "unsupported configuration: storage pool 'default' containing volume 'none' is not active"
    )
    assert "type='volume'" in domain.XMLDesc()
    embedvm_conn.defineXML(xml("b", disk("none", "vda", pool="lab")))
    assert failure(embedvm_conn.lookupByName("b").create) == (
        "Storage pool not found: no storage pool with matching name 'lab'"
    )
    pool.create()
    domain.createWithFlags(PAUSED)
    domain.destroy()
    pool.createXML("<volume><name>d</name><capacity>0</capacity><target><format type='dir'/></target></volume>")
    assert "is a directory" in failure(lambda: embedvm_conn.createXML(xml("c", disk("d", "vda")), PAUSED))


def test_a_kept_machine_has_its_volume_still(tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "kept")
    with libvirt.open(uri, keep_running=True) as first:
        path = first.storagePoolLookupByName("default").createXML(volume("v")).path()
        first.defineXML(xml("a", disk("v", "vda"))).createWithFlags(PAUSED)
    with libvirt.open(uri) as second:
        domain = second.lookupByName("a")
        try:
            assert "<source pool='default' volume='v' index='1'/>" in domain.XMLDesc()
            assert domain.blockJobInfo(path) == {}  # it is known by its path, as before
        finally:
            domain.destroy()
