"""The public question: which other drivers a domain XML would call."""

from __future__ import annotations

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.explain import Need, explain


def test_it_answers_without_a_connection() -> None:
    assert explain(
        "<domain type='qemu'><devices><disk type='volume'><source pool='p' volume='v'/></disk></devices></domain>"
    ) == [Need("storage", "/domain/devices/disk", "a source of type 'volume' is volume 'v' of storage pool 'p'")]


def test_what_is_no_domain_is_refused_as_everywhere() -> None:
    with pytest.raises(libvirt.libvirtError) as raised:
        explain("<network/>")
    assert raised.value.get_error_code() == libvirt.VIR_ERR_XML_ERROR
    with pytest.raises(libvirt.libvirtError) as raised:
        explain("")
    assert raised.value.get_error_code() == libvirt.VIR_ERR_XML_DETAIL
