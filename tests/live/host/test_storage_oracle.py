"""The host's storage driver and ours are asked the same, and say the same; and the host's, for who wants that."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from tests.live.conftest import xml as domain_xml
from tests.live.host.conftest import Daemon

UUID = "11111111-1111-1111-1111-111111111111"
SECRET = "22222222-2222-2222-2222-222222222222"
PREALLOCATE = libvirt.VIR_STORAGE_VOL_CREATE_PREALLOC_METADATA
SHRINK, DELTA = libvirt.VIR_STORAGE_VOL_RESIZE_SHRINK, libvirt.VIR_STORAGE_VOL_RESIZE_DELTA


def pool_xml(path: Path | str, more: str = "") -> str:
    return f"<pool type='dir'><name>p</name><uuid>{UUID}</uuid><target><path>{path}</path>{more}</target></pool>"


def volume(name: str, target: str = "", more: str = "<capacity unit='MiB'>1</capacity>") -> str:
    return f"<volume><name>{name}</name>{more}<target>{target}</target></volume>"


QCOW2 = "<format type='qcow2'/>"
BASE = "<capacity unit='MiB'>8</capacity><backingStore><path>{here}/q</path><format type='qcow2'/></backingStore>"
LUKS = f"<encryption format='luks'><secret type='passphrase' uuid='{SECRET}'/></encryption>"

#: What is done to a pool, one after the other, and what both say.
QUESTIONS: list[Callable[[Any, str], object]] = [
    lambda p, _: p.info(),
    lambda p, _: p.create(),
    lambda p, _: p.createXML(volume("a")),
    lambda p, _: p.build(),
    lambda p, _: p.build(libvirt.VIR_STORAGE_POOL_BUILD_NO_OVERWRITE),
    lambda p, _: p.create(),
    lambda p, _: p.create(),
    lambda p, _: p.undefine(),
    lambda p, _: p.XMLDesc(),
    lambda p, _: p.XMLDesc(8),
    lambda p, _: p.createXML(volume("a")),
    lambda p, _: p.createXML(volume("a")),
    lambda p, _: p.createXML(volume("sparse", more="<capacity unit='MiB'>2</capacity><allocation>0</allocation>")),
    lambda p, _: p.createXML(volume("q", QCOW2)),
    lambda p, _: p.createXML(volume("old", f"{QCOW2}<compat>0.10</compat>")),
    lambda p, _: p.createXML(volume("lazy", f"{QCOW2}<features><lazy_refcounts/></features>")),
    lambda p, _: p.createXML(volume("wide", f"{QCOW2}<clusterSize unit='KiB'>128</clusterSize>")),
    lambda p, here: p.createXML(volume("over", QCOW2, BASE.format(here=here))),
    lambda p, here: p.createXML(volume("x", "", BASE.format(here=here))),
    lambda p, _: p.createXML(volume("x", QCOW2, BASE.format(here="/nowhere"))),
    lambda p, _: p.createXML(volume("x"), PREALLOCATE),
    lambda p, _: p.createXML(volume("x", LUKS)),
    lambda p, _: p.createXML(volume("x", "<encryption format='luks'/>")),
    lambda p, _: p.createXML(volume("x", "<format type='bogus'/>")),
    lambda p, _: p.createXML(volume("x", "<compat>9</compat>")),
    lambda p, _: p.createXML(volume("x", "<features><y/></features>")),
    lambda p, _: p.createXML(volume("x", "<permissions><mode>9</mode></permissions>")),
    lambda p, _: p.createXML(volume("mode", "<permissions><mode>0640</mode></permissions>")),
    lambda p, _: p.createXML(volume("x", more="")),
    lambda p, _: p.createXML(volume("x", more="<capacity>y</capacity>")),
    lambda p, _: p.createXML(volume("x", more="<capacity unit='Q'>1</capacity>")),
    lambda p, _: p.createXML(volume("y/z")),
    lambda p, _: p.createXML(volume("..")),
    lambda p, _: p.createXML(volume("x" * 300)),
    lambda p, _: p.createXML(""),
    lambda p, _: p.createXML("<pool/>"),
    lambda p, _: p.createXML(volume("d", "<format type='dir'/>")),
    lambda p, _: p.createXMLFrom(volume("a"), p.storageVolLookupByName("q")),
    lambda p, _: p.refresh(),
    lambda p, _: sorted(p.listVolumes()),
    lambda p, _: [described(p.storageVolLookupByName(name)) for name in sorted(p.listVolumes())],
    lambda p, _: p.storageVolLookupByName("none"),
    lambda p, _: p.storageVolLookupByName("a").resize(1),
    lambda p, _: p.storageVolLookupByName("a").resize(0),
    lambda p, _: p.storageVolLookupByName("a").resize(4096, DELTA),
    lambda p, _: p.storageVolLookupByName("sparse").resize(1 << 20, SHRINK),
    lambda p, _: p.storageVolLookupByName("sparse").info(),
    lambda p, _: p.storageVolLookupByName("q").resize(2 << 20, libvirt.VIR_STORAGE_VOL_RESIZE_ALLOCATE),
    lambda p, _: p.storageVolLookupByName("q").resize(2 << 20),
    lambda p, _: p.storageVolLookupByName("q").info(),
    lambda p, _: p.storageVolLookupByName("a").wipePattern(99),
    lambda p, _: p.storageVolLookupByName("a").wipePattern(libvirt.VIR_STORAGE_VOL_WIPE_ALG_TRIM),
    lambda p, _: p.storageVolLookupByName("mode").wipe(),
    lambda p, _: described(p.storageVolLookupByName("mode")),
    lambda p, _: p.storageVolLookupByName("a").delete(8),
    lambda p, _: p.storageVolLookupByName("a").delete(),
    lambda p, _: p.storageVolLookupByName("d").delete(),
    lambda p, _: p.connect().storageVolLookupByPath("/nowhere/x"),
    lambda p, _: p.connect().storageVolLookupByKey("/nowhere/x"),
    lambda p, _: p.connect().storagePoolLookupByName("none"),
    lambda p, _: p.connect().storagePoolLookupByTargetPath("/nowhere"),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here).replace(UUID, SECRET)),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here).replace(">p<", ">x<")),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here).replace(">p<", ">x/y<")),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here).replace(">p<", "><")),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here).replace("'dir'", "'x'")),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(here, "<permissions><owner>x</owner></permissions>")),
    lambda p, _: p.connect().storagePoolCreateXML(pool_xml("")),
    lambda p, here: p.connect().storagePoolCreateXML(pool_xml(here)),
    lambda p, here: p.connect().storagePoolDefineXML(pool_xml(f"{here}2")).XMLDesc(libvirt.VIR_STORAGE_XML_INACTIVE),
    lambda p, _: p.destroy(),
    lambda p, _: p.isActive(),
    lambda p, _: p.destroy(),
    lambda p, _: p.delete(),
    lambda p, _: p.undefine(),
    lambda p, _: p.info(),
]  # fmt: skip


def described(volume: Any) -> list[object]:
    return [volume.XMLDesc(), volume.info(), volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL), volume.key()]


def answer(question: Callable[[Any, str], object], pool: Any, here: str) -> object:
    """What it says, or the error; without what is another one's for each."""
    try:
        said = question(pool, here)
    except Exception as error:  # libvirt-python's class is another one than ours
        if not hasattr(error, "get_error_code"):
            raise
        return (error.get_error_code(), neutral(error.get_error_message(), here))
    if hasattr(said, "XMLDesc"):
        return said.name()
    if isinstance(said, list):
        return [neutral(item, here) if isinstance(item, str) else item for item in flat(said)]
    return neutral(said, here) if isinstance(said, str) else said


def flat(items: list[Any]) -> list[Any]:
    return [inner for item in items for inner in (flat(item) if isinstance(item, list) else [item])]


#: What is another one's for each: times, and how full the file system is.
OTHERS = re.compile(
    r"<timestamps>.*?</timestamps>|<(capacity|allocation|available) unit='bytes'>\d{9,}</\1>", re.DOTALL
)


def neutral(text: str, here: str) -> str:
    text = OTHERS.sub("", text.replace(here, "HERE"))
    if not text.startswith("<"):
        return text
    return re.sub(r">\s+<", "><", etree.tostring(etree.fromstring(text), method="c14n").decode())


def test_both_say_the_same(host: Daemon, tmp_path: Path) -> None:
    with libvirt.open(make_uri(tmp_path / "root")) as connection:
        pools = {}
        for who, where in ((host.conn, tmp_path / "theirs"), (connection, tmp_path / "root/ours")):
            pools[str(where)] = who.storagePoolDefineXML(pool_xml(where))
        asked = [[answer(question, pool, here) for here, pool in pools.items()] for question in QUESTIONS]
    assert [(number, ours, theirs) for number, (theirs, ours) in enumerate(asked) if ours != theirs] == []


def test_a_connection_to_the_hosts_storage(host: Daemon, tmp_path: Path) -> None:
    disk = "<disk type='volume'><source pool='p' volume='v'/><target dev='vda' bus='virtio'/></disk>"
    paused = libvirt.VIR_DOMAIN_START_PAUSED
    with libvirt.open(make_uri(tmp_path / "root", storage="host")) as connection:
        assert connection.listStoragePools() == []
        pool = connection.storagePoolCreateXML(pool_xml(tmp_path / "p"), libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD)
        assert [found.name() for found in host.conn.listAllStoragePools()] == ["p"]
        volume_ = pool.createXML(volume("v"))
        assert volume_.storagePoolLookupByVolume().UUIDString() == UUID
        assert volume_.info() == [libvirt.VIR_STORAGE_VOL_FILE, 1 << 20, 1 << 20]
        domain = connection.createXML(domain_xml("a", disk), paused)
        assert "<source pool='p' volume='v' index='1'/>" in domain.XMLDesc()
        assert domain.blockJobInfo(f"{tmp_path}/p/v") == {}
        domain.destroy()
        with pytest.raises(libvirt.libvirtError, match="no storage vol with matching name 'w'"):
            connection.createXML(domain_xml("a", disk.replace("'v'", "'w'")), paused)
        with pytest.raises(libvirt.libvirtError, match="streams of the host's volumes are not passed on"):
            volume_.download(connection.newStream(), 0, 0)
        pool.destroy()
