from __future__ import annotations

import pytest

from pytest_embedvm.domain import abi, complete, definition
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.errors import ConfigUnsupported
from tests.domain.machines import completed
from tests.fakes.host import FakeHost

DEVICES = """<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/d.img'/>
  <target dev='vda' bus='virtio'/></disk><interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/>
  </interface><channel type='unix'><target type='virtio' name='x'/></channel><serial type='pty'/>
  <memballoon model='none'/>"""


def source() -> Completed:
    return completed(DEVICES)


def changed(old: str, new: str) -> Completed:
    text = definition.format(source(), inactive=True)
    assert old in text
    return complete.complete(definition.parse(text.replace(old, new, 1)), FakeHost(kvm_refused=None))


def compare(target: Completed) -> None:
    abi.check(source(), target, FakeHost(kvm_refused=None))


# What libvirt 9.0 says (measured).
@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("<name>a<", "<name>b<", "Target domain name 'b' does not match source 'a'"),
        ("KiB'>262144", "KiB'>65536", "Target domain max memory 65536 does not match source 262144"),
        (">1</vcpu>", ">2</vcpu>", "Target domain vCPU max 2 does not match source 1"),
        ("pc-q35-7.2", "pc-q35-7.1", "Target domain machine type pc-q35-7.1 does not match source pc-q35-7.2"),
        ("type='qemu'", "type='kvm'", "Target domain virt type kvm does not match source qemu"),
        (
            "<uuid>1",
            "<uuid>2",
            "Target domain uuid 21111111-1111-1111-1111-111111111111 does not match source "
            "11111111-1111-1111-1111-111111111111",
        ),
        (
            "<memory ",
            "<genid>11111111-1111-1111-1111-111111111111</genid><memory ",
            "Target domain requested genid does not match source",
        ),
        (
            "<serial",
            "<channel type='unix'><target type='virtio' name='y'/></channel><serial",
            "Target domain channel count 2 does not match source 1",
        ),
    ],
)
def test_differences_that_libvirt_names(old: str, new: str, sentence: str) -> None:
    with pytest.raises(ConfigUnsupported) as caught:
        compare(changed(old, new))
    assert caught.value.message == f"unsupported configuration: {sentence}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("52:54:00:11:22:33", "52:54:00:11:22:34"),
        ("name='x'", "name='z'"),
        ("<model type='virtio'/>", "<model type='e1000'/>"),
        ("<memballoon model='none'/>", "<memballoon model='virtio'/>"),
        ("function='0x1'", "function='0x7'"),
        ("<driver name='qemu' type='raw'/>", "<driver name='qemu' type='raw'/><serial>s</serial>"),
        ("<clock", "<features><acpi/></features><clock"),
    ],
)
def test_differences_that_the_guest_would_see(old: str, new: str) -> None:
    with pytest.raises(ConfigUnsupported, match=r"^unsupported configuration: Target .* does not match source "):
        compare(changed(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/d.img", "/e.img"),
        ("offset='utc'", "offset='localtime'"),
        ("<serial type='pty'>", "<serial type='file'><source path='/x.log'/>"),
        ("<boot dev='hd'/>", "<boot dev='network'/>"),
    ],
)
def test_differences_behind_the_guest(old: str, new: str) -> None:
    compare(changed(old, new))
