"""Storage of the test's own: a volume is made, filled, read and written by a guest, and read back.

Run it with `pytest --embedvm -v examples/test_volumes.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM

VOLUME = """
<volume>
  <name>data.raw</name>
  <capacity unit='MiB'>16</capacity>
  <allocation>0</allocation>
</volume>
"""
DISK = """
<disk type='volume' device='disk'>
  <driver name='qemu' type='raw'/>
  <source pool='default' volume='data.raw'/>
  <target dev='vdx' bus='virtio'/>
</disk>
"""


def test_a_guest_works_on_a_volume(
    embedvm_conn: libvirt.virConnect, embedvm_domain_xml: str, vm_factory: Callable[..., VM]
) -> None:
    volume = embedvm_conn.storagePoolLookupByName("default").createXML(VOLUME)
    upload = embedvm_conn.newStream()
    volume.upload(upload, 0, 0)
    upload.send(b"from the host")
    upload.finish()

    vm = vm_factory(xml=embedvm_domain_xml.replace("</devices>", f"{DISK}</devices>"))
    assert vm.run("head -c 13 /dev/vda").text == "from the host"
    vm.run("echo -n 'from the guest' | dd of=/dev/vda conv=notrunc,fsync")

    download = embedvm_conn.newStream()
    volume.download(download, 0, 14)
    assert download.recv(14) == b"from the guest"
    download.finish()
