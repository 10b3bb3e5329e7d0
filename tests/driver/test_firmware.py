from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_embedvm.domain.host import FirmwareImage, FirmwareWish
from pytest_embedvm.driver.firmware import find
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.logs import HOST

PLAIN = FirmwareWish(secure_boot=False)


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


def choose(directories: tuple[Path, Path], wish: FirmwareWish = PLAIN) -> FirmwareImage:
    return find(HOST, "x86_64", "pc-q35-7.2", wish, directories)


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (FirmwareWish(), "/secure"),
        (PLAIN, "/plain"),
        (FirmwareWish(secure_boot=True), "/secure"),
        (FirmwareWish(secure_boot=True, enrolled_keys=False), "/empty"),
        (FirmwareWish(enrolled_keys=False), "/empty"),
    ],
)
def test_the_first_that_is_as_wished(directories: tuple[Path, Path], wish: FirmwareWish, code: str) -> None:
    assert choose(directories, wish) == FirmwareImage(code, f"{code}.vars", requires_smm=code != "/plain")


@pytest.mark.parametrize(
    ("arch", "machine", "wish"),
    [
        ("aarch64", "virt-7.2", PLAIN),
        ("x86_64", "pc-i440fx-7.2", PLAIN),
        ("x86_64", "pc-q35-7.2", FirmwareWish(stateless=True)),
    ],
)
def test_none_that_fits(directories: tuple[Path, Path], arch: str, machine: str, wish: FirmwareWish) -> None:
    with pytest.raises(OperationFailed, match=r"^operation failed: Unable to find 'efi' firmware"):
        find(HOST, arch, machine, wish, directories)


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
