from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_embedvm.domain.host import FirmwareImage
from pytest_embedvm.driver.firmware import find
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.logs import HOST


def descriptor(directory: Path, name: str, code: str, *features: str, machine: str = "pc-q35-*") -> None:
    directory.mkdir(exist_ok=True)
    described = {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": code, "format": "raw"},
            "nvram-template": {"filename": f"{code}.vars", "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": [machine]}],
        "features": features,
    }
    (directory / name).write_text(json.dumps(described))


@pytest.fixture
def directories(tmp_path: Path) -> tuple[Path, Path]:
    vendor, admin = tmp_path / "vendor", tmp_path / "admin"
    descriptor(vendor, "40-enrolled.json", "/secure", "secure-boot", "enrolled-keys", "requires-smm")
    descriptor(vendor, "50-secure.json", "/empty", "secure-boot", "requires-smm")
    descriptor(vendor, "60-plain.json", "/plain")
    admin.mkdir()
    return vendor, admin


def choose(directories: tuple[Path, Path], *, secure_boot: bool = False, smm: bool = True) -> FirmwareImage:
    return find(HOST, "x86_64", "pc-q35-7.2", secure_boot=secure_boot, smm=smm, directories=directories)


def test_plain_unless_secure_boot_is_wanted(directories: tuple[Path, Path]) -> None:
    assert choose(directories) == FirmwareImage("/plain", "/plain.vars")
    assert choose(directories, secure_boot=True) == FirmwareImage("/secure", "/secure.vars", secure=True)


@pytest.mark.parametrize(("arch", "machine"), [("aarch64", "virt-7.2"), ("x86_64", "pc-i440fx-7.2")])
def test_none_that_fits(directories: tuple[Path, Path], arch: str, machine: str) -> None:
    with pytest.raises(OperationFailed, match=r"^operation failed: Unable to find 'efi' firmware"):
        find(HOST, arch, machine, secure_boot=False, smm=True, directories=directories)


def test_secure_boot_wants_smm(directories: tuple[Path, Path]) -> None:
    with pytest.raises(OperationFailed):
        choose(directories, secure_boot=True, smm=False)


def test_a_later_directory_hides_and_comes_before(directories: tuple[Path, Path]) -> None:
    descriptor(directories[1], "10-mine.json", "/mine")
    assert choose(directories).loader == "/mine"
    (directories[1] / "10-mine.json").unlink()
    (directories[1] / "60-plain.json").write_text("")
    with pytest.raises(OperationFailed):
        choose(directories)


def test_a_broken_descriptor_is_ignored(directories: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    (directories[0] / "00-broken.json").write_text("{")
    (directories[0] / "01-list.json").write_text("[]")
    assert choose(directories).loader == "/plain"
    assert "00-broken.json is ignored" in caplog.text
