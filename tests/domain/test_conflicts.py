"""What devices ask for that others have."""

from __future__ import annotations

import pytest

from pytest_embedvm.errors import ConfigUnsupported
from tests.domain.machines import completed


def test_a_boot_order_twice() -> None:
    cdrom = "<disk type='file' device='cdrom'><target dev='sd{}' bus='sata'/><boot order='1'/></disk>"
    with pytest.raises(ConfigUnsupported) as caught:
        completed(cdrom.format("a") + cdrom.format("b"))
    assert caught.value.message == "unsupported configuration: boot order '1' used for more than one device"


def test_an_address_off_every_bus() -> None:
    with pytest.raises(ConfigUnsupported, match="address of type 'unassigned' is supported only for hostdevs"):
        completed("<rng model='virtio'><backend model='builtin'/><address type='unassigned'/></rng>")
