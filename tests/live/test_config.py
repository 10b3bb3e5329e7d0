"""The configuration through the public API."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from tests.live.conftest import PAUSED, xml


@pytest.mark.parametrize(
    "opener", [libvirt.open, libvirt.openReadOnly, lambda *a, **k: libvirt.openAuth(*a, None, **k)]
)
def test_what_is_wrong_is_an_error_of_open(tmp_path: Path, opener: Callable[[str], object]) -> None:
    file = tmp_path / "qemu.conf"
    file.write_text("# limits\nmax_flies = 1\n")
    with pytest.raises(libvirt.libvirtError) as caught:
        opener(make_uri(tmp_path / "root", config=file))
    assert caught.value.get_error_code() == libvirt.VIR_ERR_CONF_SYNTAX
    assert caught.value.get_error_domain() == libvirt.VIR_FROM_CONF
    assert caught.value.get_error_message() == f"configuration file syntax error: {file}:2: unknown key 'max_flies'"
    libvirt.open(make_uri(tmp_path / "root")).close()


def test_keys_and_values(tmp_path: Path) -> None:
    connection = libvirt.open(make_uri(tmp_path), config={"vnc_listen": "127.0.0.7", "max_files": 300})
    domain = connection.createXML(xml(devices="<graphics type='vnc'/>"), PAUSED)
    assert "listen='127.0.0.7'" in domain.XMLDesc()
    with pytest.raises(libvirt.libvirtError, match="another configuration: vnc_listen, max_files") as caught:
        libvirt.open(make_uri(tmp_path), config={})
    assert caught.value.get_error_code() == libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    libvirt.open(make_uri(tmp_path)).close()
    domain.destroy()
    connection.close()
    assert not (tmp_path / "etc/qemu.conf").exists()


def test_what_is_given_is_a_path_or_a_mapping(tmp_path: Path) -> None:
    with pytest.raises(libvirt.libvirtError, match="config must be a path or a mapping, not int") as caught:
        libvirt.open(make_uri(tmp_path), config=5)  # type: ignore[arg-type]
    assert caught.value.get_error_code() == libvirt.VIR_ERR_INVALID_ARG
