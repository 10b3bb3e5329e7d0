"""Secrets of the host's own libvirt: the guest reads with them, and the API's calls are about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM
from tests.fakes.luks import make_luks
from tests.live.host.conftest import Daemon

CONTENT = b"what the guest is to read".ljust(512, b"!")
PASSPHRASE = b"open sesame, please"
SECRET = "<secret private='{}'><usage type='volume'><volume>{}</volume></usage></secret>"
DISK = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{file}'/>
  <target dev='vdx' bus='virtio'/><encryption format='luks'><secret type='passphrase' {secret}/></encryption></disk>"""


@pytest.mark.embedvm(secrets="host")
def test_a_guest_reads_a_disk_that_a_secret_of_the_hosts_opens(
    host: Daemon,
    embedvm_conn: libvirt.virConnect,
    embedvm_domain_xml: str,
    vm_factory: Callable[..., VM],
    tmp_path: Path,
) -> None:
    volume = make_luks(tmp_path / "volume.luks", PASSPHRASE, CONTENT)
    theirs = host.conn.secretDefineXML(SECRET.format("no", "/v"))

    def xml(secret: str) -> str:
        return embedvm_domain_xml.replace("</devices>", DISK.format(file=volume, secret=secret) + "</devices>")

    # Ours for it: our classes, the host's object.
    secret = embedvm_conn.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "/v")
    assert isinstance(secret, libvirt.virSecret)
    assert (secret.UUIDString(), secret.usageID()) == (theirs.UUIDString(), "/v")
    assert secret.XMLDesc() == theirs.XMLDesc()
    with pytest.raises(libvirt.libvirtError, match="does not have a value") as raised:
        vm_factory(name="early", xml=xml("usage='/v'").replace(">vm<", ">early<"))
    assert raised.value.get_error_code() == libvirt.VIR_ERR_NO_SECRET
    secret.setValue(PASSPHRASE)
    assert theirs.value() == secret.value() == PASSPHRASE
    assert [found.UUIDString() for found in embedvm_conn.listAllSecrets()] == [theirs.UUIDString()]

    vm = vm_factory(xml=xml(f"uuid='{theirs.UUIDString()}'"))
    assert vm.run(f"head -c {len(CONTENT)} /dev/vda").stdout == CONTENT

    # What is defined through us is the host's, not the root's; a private one is libvirt's own drivers' alone.
    private = embedvm_conn.secretDefineXML(SECRET.format("yes", "/private"))
    private.setValue(PASSPHRASE)
    assert {found.usageID() for found in host.conn.listAllSecrets()} == {"/v", "/private"}
    with pytest.raises(libvirt.libvirtError, match="secret is private") as raised:
        vm_factory(name="late", xml=xml("usage='/private'").replace(">vm<", ">late<"))
    assert raised.value.get_error_code() == libvirt.VIR_ERR_INVALID_SECRET
    private.undefine()
    assert host.conn.listSecrets() == [theirs.UUIDString()]
    with pytest.raises(libvirt.libvirtError) as raised:
        embedvm_conn.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, lambda *_: None, None)
    assert raised.value.get_error_code() == libvirt.VIR_ERR_NO_SUPPORT
