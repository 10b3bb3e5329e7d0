"""Storage pools of the host's own libvirt: the guest reads a volume of one, and the API's calls are about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM
from tests.live.host.conftest import Daemon

CONTENT = b"a volume of the host's".ljust(512, b".")
POOL = "<pool type='dir'><name>theirs</name><target><path>{}</path></target></pool>"
VOLUME = """<volume><name>{name}</name><capacity unit='KiB'>512</capacity>
  <target><format type='{format}'/></target></volume>"""
DISK = """<disk type='volume' device='disk'><driver name='qemu' type='{format}'/>
  <source pool='theirs' volume='{name}'/><target dev='{dev}' bus='virtio'/></disk>"""


@pytest.mark.embedvm(storage="host")
def test_a_guest_reads_a_volume_of_the_hosts(
    host: Daemon,
    embedvm_conn: libvirt.virConnect,
    embedvm_domain_xml: str,
    vm_factory: Callable[..., VM],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    theirs = host.conn.storagePoolDefineXML(POOL.format(folder))

    def xml(*disks: str) -> str:
        return embedvm_domain_xml.replace("</devices>", "".join(disks) + "</devices>")

    raw = DISK.format(format="raw", name="data", dev="vdx")
    with pytest.raises(libvirt.libvirtError, match="storage pool 'theirs' containing volume 'data' is not active"):
        vm_factory(xml=xml(raw))
    theirs.create()
    with pytest.raises(libvirt.libvirtError, match="no storage vol with matching name 'data'") as raised:
        vm_factory(xml=xml(raw))
    assert raised.value.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_VOL

    # Ours for them: our classes, the host's objects.
    pool = embedvm_conn.storagePoolLookupByName("theirs")
    assert isinstance(pool, libvirt.virStoragePool)
    assert pool.UUIDString() == theirs.UUIDString()
    volume = pool.createXML(VOLUME.format(name="data", format="raw"))
    assert isinstance(volume, libvirt.virStorageVol)
    assert volume.path() == f"{folder}/data"
    pool.createXML(VOLUME.format(name="second", format="qcow2"))
    assert sorted(theirs.listVolumes()) == sorted(found.name() for found in pool.listAllVolumes()) == ["data", "second"]
    assert [found.name() for found in embedvm_conn.listAllStoragePools()] == ["theirs"]
    with Path(volume.path()).open("r+b") as file:
        file.write(CONTENT)

    vm = vm_factory(xml=xml(raw, DISK.format(format="qcow2", name="second", dev="vdy")))
    assert vm.run(f"head -c {len(CONTENT)} /dev/vda").stdout == CONTENT
    assert vm.run("cat /sys/block/vda/size /sys/block/vdb/size").text.split() == ["1024", "1024"]
    assert "<source pool='theirs' volume='data'" in vm.domain.XMLDesc()

    stream = embedvm_conn.newStream()
    with pytest.raises(libvirt.libvirtError, match="streams of the host's volumes are not passed on"):
        volume.download(stream, 0, 0)
