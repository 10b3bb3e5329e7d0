"""The public question: which other drivers a domain XML would call."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import Need, explain, make_uri
from tests.api.test_connect import failure


def test_it_answers_without_a_connection() -> None:
    assert explain(
        "<domain type='qemu'><devices><disk type='volume'><source pool='p' volume='v'/></disk></devices></domain>"
    ) == [Need("storage", "/domain/devices/disk", "a source of type 'volume' is volume 'v' of storage pool 'p'")]


def test_a_start_that_needs_what_its_connection_lacks_fails_with_the_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    devices = "<interface type='network'><source network='n'/></interface>"
    xml = f"<domain type='qemu'><name>a</name><devices>{devices}</devices></domain>"
    with libvirt.open(make_uri(tmp_path / "root", network="none")) as conn:
        assert failure(lambda: conn.createXML(xml)) == (
            libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
            libvirt.VIR_FROM_DOMAIN,
            f"unsupported configuration: {explain(xml)[0]} (this connection was opened with network=none)",
        )
        assert conn.listAllDomains() == []


def test_what_is_no_domain_is_refused_as_everywhere() -> None:
    with pytest.raises(libvirt.libvirtError) as raised:
        explain("<network/>")
    assert raised.value.get_error_code() == libvirt.VIR_ERR_XML_ERROR
    with pytest.raises(libvirt.libvirtError) as raised:
        explain("")
    assert raised.value.get_error_code() == libvirt.VIR_ERR_XML_DETAIL
