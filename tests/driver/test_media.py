"""Disks whose images are not there."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain import definition
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.driver import media
from pytest_embedvm.errors import ConfigUnsupported, InternalError, OperationInvalid, SystemFailure
from pytest_embedvm.qemu.parts import BlockdevPart
from tests.domain.devices.asking import completed
from tests.fakes.host import FakeHost

CDROM = "<disk device='cdrom'><source file='{}'{}/><target dev='sda' bus='sata'/></disk>"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_missing_image_is_named_as_libvirt_does(image_format: str) -> None:
    domain = completed(
        f"<disk><driver type='{image_format}'/><source file='/nonexistent/d'/><target dev='vda'/></disk>"
    )
    who = f" (as uid:{os.geteuid()}, gid:{os.getegid()})" if image_format == "qcow2" else ""
    with pytest.raises(SystemFailure) as caught:
        media.check(domain)
    assert caught.value.message == f"Cannot access storage file '/nonexistent/d'{who}: No such file or directory"
    assert caught.value.origin == ErrorDomain.STORAGE


@pytest.mark.parametrize("policy", ["", " startupPolicy='mandatory'", " startupPolicy='requisite'"])
def test_a_medium_that_must_be_there(policy: str) -> None:
    with pytest.raises(SystemFailure, match="/nonexistent/cd"):
        media.check(completed(CDROM.format("/nonexistent/cd", policy)))


def test_an_optional_medium_is_taken_out() -> None:
    domain = completed(CDROM.format("/nonexistent/cd", " startupPolicy='optional'"))
    media.check(domain)
    (drive,) = (device for device in domain.devices.all if isinstance(device, Disk))
    assert drive.source is None


def test_what_an_image_stands_on_must_be_there_too(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.touch()
    backing = "<backingStore type='file'><format type='raw'/><source file='/nonexistent/base'/></backingStore>"
    domain = completed(f"<disk><driver type='qcow2'/><source file='{top}'/>{backing}<target dev='vda'/></disk>")
    with pytest.raises(SystemFailure, match="'/nonexistent/base': No such file"):
        media.check(domain)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "cd"
    path.touch()
    domain = completed(CDROM.format(path, " startupPolicy='optional'"))
    media.check(domain)
    (drive,) = (device for device in domain.devices.all if isinstance(device, Disk))
    assert drive.path == str(path)


def _qcow2(path: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    return path


def _name_backing(path: Path, name: bytes) -> None:
    """Write NAME, and no format, as the backing file into a header: what a guest can do to its raw disk."""
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack(">QI", 4096, len(name)))
        file.seek(4096)
        file.write(name)


def _disk(path: Path, more: str = "") -> Completed:
    return completed(f"<disk><driver type='qcow2'/><source file='{path}'/>{more}<target dev='vda'/></disk>")


def _nodes(domain: Completed) -> list[tuple[str, str, object]]:
    """Name, file and backing of each image that QEMU is told of."""
    parts = [part.props for part in launch(domain, FakeHost()).parts if isinstance(part, BlockdevPart)]
    files = {str(p["node-name"]): str(p["filename"]) for p in parts if "filename" in p}
    return [(str(p["node-name"]), files[str(p["file"])], p.get("backing", "?")) for p in parts if "file" in p]


def test_the_chain_in_the_headers_is_told_to_qemu(tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(1 << 20))
    middle = _qcow2(tmp_path / "middle", "-b", "base", "-F", "raw")
    top = _qcow2(tmp_path / "top", "-b", str(middle), "-F", "qcow2")
    domain = _disk(top)
    media.check(domain)
    assert _nodes(domain) == [
        ("libvirt-3-format", str(tmp_path / "base"), "?"),
        ("libvirt-2-format", str(middle), "libvirt-3-format"),
        ("libvirt-1-format", str(top), "libvirt-2-format"),
    ]
    live, inactive = definition.format(domain), definition.format(domain, inactive=True)
    assert "<backingStore type='file' index='2'>" in live
    assert live.count("<backingStore") == 3
    assert "<backingStore" not in inactive


def test_an_image_that_stands_alone_may_not_get_company_later(tmp_path: Path) -> None:
    domain = _disk(_qcow2(tmp_path / "top"))
    media.check(domain)
    assert [backing for _, _, backing in _nodes(domain)] == [None]


def test_a_backing_file_without_a_format_is_refused(tmp_path: Path) -> None:
    top = _qcow2(tmp_path / "top")
    _name_backing(top, b"/etc/shadow")
    with pytest.raises(OperationInvalid) as caught:
        media.check(_disk(top))
    assert caught.value.message == (
        f"Requested operation is not valid: format of backing image '/etc/shadow' of image '{top}' was not specified "
        "in the image metadata (See https://libvirt.org/kbase/backing_chains.html for troubleshooting)"
    )


def test_what_a_guest_wrote_into_its_raw_disk_is_no_header(tmp_path: Path) -> None:
    base = _qcow2(tmp_path / "base")
    _name_backing(base, b"/etc/shadow")
    domain = _disk(_qcow2(tmp_path / "top", "-u", "-b", str(base), "-F", "raw"))
    media.check(domain)
    assert [path for _, path, _ in _nodes(domain)] == [str(base), str(tmp_path / "top")]


@pytest.mark.parametrize("below", [False, True])
def test_an_image_whose_content_is_elsewhere(tmp_path: Path, below: bool) -> None:
    secret = tmp_path / "secret"
    path = _qcow2(tmp_path / "image", "-o", f"data_file={secret},data_file_raw=on")
    if below:
        path = _qcow2(tmp_path / "top", "-b", str(path), "-F", "qcow2")
    with pytest.raises(ConfigUnsupported, match=r"image' of disk 'vda' keeps its content in another file"):
        media.check(_disk(path))


def test_a_chain_without_an_end(tmp_path: Path) -> None:
    _qcow2(tmp_path / "base", "-u", "-b", "top", "-F", "qcow2")
    top = _qcow2(tmp_path / "top", "-u", "-b", "base", "-F", "qcow2")
    with pytest.raises(InternalError, match="self-referential"):
        media.check(_disk(top))


@pytest.mark.parametrize("name", ["nbd://host/export", "json:{}", "ssh:x"])
def test_a_backing_file_that_is_none(tmp_path: Path, name: str) -> None:
    top = _qcow2(tmp_path / "top")
    _name_backing(top, name.encode())
    with pytest.raises(ConfigUnsupported, match="is no file"):
        media.check(_disk(top))


@pytest.mark.parametrize(("offset", "length"), [(1 << 63, 8), (8, 1 << 31), (65534, 100)])
def test_a_broken_header(tmp_path: Path, offset: int, length: int) -> None:
    top = _qcow2(tmp_path / "top")
    with top.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack(">QI", offset, length))
        file.truncate(65536)
    with pytest.raises(InternalError, match="is broken"):
        media.check(_disk(top))
