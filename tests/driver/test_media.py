"""Disks whose images are not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices.disk import Disk
from pytest_embedvm.driver import media
from pytest_embedvm.errors import SystemFailure
from tests.domain.devices.asking import completed

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
