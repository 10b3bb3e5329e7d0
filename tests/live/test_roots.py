"""Roots are independent of each other, may have any path, and leave nothing."""

from __future__ import annotations

import gc
import os
import socket
import stat
import threading
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api._object import Session
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.roots.root import Root
from tests.live.conftest import PAUSED, Open, Told, descriptors, qemus, uri, xml

DEVICES = """
  <disk type='file'><driver type='raw'/><source file='{}/disk.img'/><target dev='vda' bus='virtio'/></disk>
  <serial type='unix'><source mode='bind' path='{}/serial.sock'/></serial>
  <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
  <channel type='unix'><target type='virtio' name='../../../escape'/></channel>
  <graphics type='vnc'><listen type='socket'/></graphics>"""


def test_many_roots_at_once(connect: Open) -> None:
    connections = [connect(f"root{number}") for number in range(12)]
    told = [Told(connection) for connection in connections]
    with_uuid = xml().replace("</name>", "</name><uuid>11111111-1111-1111-1111-111111111111</uuid>")
    domains = [connection.createXML(with_uuid, PAUSED) for connection in connections]
    assert {(domain.ID(), domain.name(), domain.UUIDString()) for domain in domains} == {
        (1, "a", "11111111-1111-1111-1111-111111111111")
    }
    domains[0].destroy()
    told[0].stopped()
    for connection in connections[1:5]:
        connection.close()
    assert [domain.isActive() for domain in domains[5:]] == [1] * 7
    assert len(qemus()) >= 7
    assert [len(events.events) for events in told[5:]] == [2] * 7


def test_thousands_of_openings_leak_nothing(tmp_path: Path) -> None:
    def openings(number: int) -> None:
        for i in range(number):
            connection = libvirt.open(uri(tmp_path / f"root{i % 7}"))
            connection.listAllDomains()
            if i % 2:  # a callback keeps its connection, as libvirt's do: it wants a close
                connection.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, print, None)
                connection.close()
            del connection

    def left() -> tuple[int, ...]:
        gc.collect()
        kinds = [kind for kind in map(type, gc.get_objects()) if kind in (Driver, Root, Session, libvirt.virConnect)]
        return descriptors(), threading.active_count(), len(kinds)

    openings(20)
    libvirt.open(uri(tmp_path / "fence")).close()  # what was abandoned is closed on the loop, before this
    before = left()
    openings(1000)
    libvirt.open(uri(tmp_path / "fence")).close()
    assert all(after <= then + 2 for after, then in zip(left(), before, strict=True)), (before, left())


@pytest.mark.parametrize(
    "name",
    ["x" * 220, "with space, comma,,and=equals", "ünï/cødé 名前 😀", "per%cent %2F %%", "q'uo\"te\\", "new\nline\t"],
    ids=["long", "commas", "unicode", "percent", "quotes", "newline"],
)
def test_any_path(connect: Open, tmp_path: Path, name: str) -> None:
    root = tmp_path / name
    root.mkdir(parents=True, mode=0o700)
    (root / "disk.img").write_bytes(bytes(1 << 20))
    connection = connect(name)
    place = str(root).replace("&", "&amp;").replace("<", "&lt;").replace("'", "&apos;")
    place = place.replace("\n", "&#10;").replace("\t", "&#9;")
    domain = connection.createXML(xml(devices=DEVICES.format(place, place)), PAUSED)
    agent = root / "lib/qemu/channel/target/a/org.qemu.guest_agent.0"
    for path in (agent, root / "serial.sock", root / "lib/qemu/vnc/a/vnc.sock"):
        directory = os.open(path.parent, os.O_PATH)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
    assert_private(root, but={root / "disk.img"})
    assert not list(tmp_path.rglob("escape"))
    domain.destroy()
    assert [path.name for path in root.rglob("*") if path.is_socket()] == ["driver.sock"]
    connection.close()
    assert [path for path in root.rglob("*") if path.is_socket()] == []
    Root(root).purge()
    assert [path.name for path in root.iterdir()] == ["disk.img"]


def assert_private(root: Path, but: set[Path]) -> None:
    paths = {root, *root.rglob("*")} - but - {root / "cache/qemu"}  # a link has no mode of its own
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in paths}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}


def test_planted_links_are_not_followed(connect: Open, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "qemu").mkdir(parents=True)
    (victim / "file").write_text("precious")
    connection, root = connect(), tmp_path / "root"
    consoles = root / "log/qemu/console/a"
    consoles.mkdir(parents=True)
    serial = "<serial type='pty'/>"
    for link in (root / "log/qemu/a.log", consoles / "serial0.log"):
        link.unlink(missing_ok=True)
        link.symlink_to(victim / "file")
        with pytest.raises(libvirt.libvirtError, match="failed to open logfile"):
            connection.createXML(xml(devices=serial), PAUSED)
        link.unlink()
    (root / "etc").symlink_to(victim)
    with pytest.raises(libvirt.libvirtError, match="cannot create directory"):
        connection.defineXML(xml())
    connection.close()
    (victim / "qemu/kept").touch()
    Root(root).purge()
    assert (victim / "file").read_text() == "precious"
    assert [path.name for path in (victim / "qemu").iterdir()] == ["kept"]


def test_names_stay_below_the_root(connect: Open, tmp_path: Path) -> None:
    connection = connect()
    before = set(tmp_path.iterdir())
    for name in ("..", ".", "...", "a,id=x,b=c", "-S", "$(touch x)", "new\nline", "%2F..%2F"):
        text = xml(name.replace("\n", "&#10;"), "<serial type='pty'><alias name='ua-../../x'/></serial>")
        domain = connection.createXML(text, PAUSED)
        assert domain.name() == name
        domain.destroy()
        connection.defineXML(text).undefine()
    assert set(tmp_path.iterdir()) == before


def test_the_port_that_vnc_found_is_told(connect: Open) -> None:
    domain = connect().createXML(xml(devices="<graphics type='vnc'/>"), PAUSED)
    assert "<graphics type='vnc' port='59" in domain.XMLDesc()
    assert "<graphics type='vnc' port='-1' autoport='yes'" in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
