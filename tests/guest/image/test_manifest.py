"""A manifest that cannot be read is kept, and reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_embedvm.guest.image.manifest import GuestImage, read_manifest, set_damaged_aside, write_manifest


@pytest.fixture
def image(tmp_path: Path) -> GuestImage:
    for name in ("kernel", "initrd"):
        (tmp_path / name).touch()
    image = GuestImage(tmp_path / "kernel", tmp_path / "vmlinuz", tmp_path / "initrd", "quiet", "6.1", "x86_64", ())
    write_manifest(tmp_path, "host", image, [])
    return image


def test_a_good_one_stays(tmp_path: Path, image: GuestImage, caplog: pytest.LogCaptureFixture) -> None:
    set_damaged_aside(tmp_path, "host")
    set_damaged_aside(tmp_path, "another")
    assert read_manifest(tmp_path, "host") == image
    image.kernel.unlink()  # made of what has changed: that is no damage
    set_damaged_aside(tmp_path, "host")
    assert read_manifest(tmp_path, "host") is None
    assert [path.name for path in (tmp_path / "guest").iterdir()] == ["host.json"]
    assert not caplog.records


@pytest.mark.parametrize(
    "damaged",
    ["", "{", "[]", "{}", json.dumps({"image": {}, "files": {}}), json.dumps({"image": 3, "files": []}), "[" * 100_000],
    ids=len,
)
def test_a_damaged_one_is_set_aside(
    tmp_path: Path, image: GuestImage, damaged: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "guest/host.json"
    path.write_text(damaged)
    assert read_manifest(tmp_path, "host") is None
    assert path.exists()
    set_damaged_aside(tmp_path, "host")
    assert not path.exists()
    assert (tmp_path / "guest/host.json.unreadable").read_text() == damaged
    assert "cannot be read" in caplog.text
