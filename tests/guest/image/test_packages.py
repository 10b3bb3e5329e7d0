"""Fetching, with an apt of our own: a package archive that dpkg-deb makes, and two scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.image.packages import fetch


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages that apt-get downloads from; `calls` lists what was asked."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("there is no dpkg-deb")
    mirror, tools = tmp_path / "mirror", tmp_path / "tools"
    mirror.mkdir()
    tools.mkdir()
    for name in ("linux-image-6.1.0-1-cloud", "tool", "library"):
        tree = tmp_path / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n"
        )
        (tree / f"from-{name}").write_text(name)
        subprocess.run(["dpkg-deb", "-b", tree, mirror / f"{name}.deb"], check=True, capture_output=True)
    script(
        tools / "apt-get",
        f'shift; echo "$@" >>{mirror}/calls; '
        f'for n; do cp {mirror}/$n.deb . || {{ echo "E: no $n" >&2; exit 100; }}; done',
    )
    script(
        tools / "apt-cache",
        'case "$*" in '
        '*depends*) printf "tool\\n  Depends: library\\nlibrary\\n<virtual>\\n" ;; '
        '*linux-image-cloud) echo "Depends: linux-image-6.1.0-1-cloud (= 1)" ;; '
        '*) echo "Depends: library" ;; esac',
    )
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    return mirror


def files(tree: Path) -> list[str]:
    return sorted(path.name for path in tree.iterdir())


def test_a_package_is_unpacked_once(mirror: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert files(fetch("tool", tmp_path / "into")) == ["from-tool"]
    assert (mirror / "calls").read_text().splitlines() == ["tool"]
    assert files(tmp_path / "into") == ["tool"]


def test_a_metapackage_stands_for_its_kernel(mirror: Path, tmp_path: Path) -> None:
    assert files(fetch("linux-image-cloud", tmp_path / "into")) == ["from-linux-image-6.1.0-1-cloud"]


def test_libraries_come_along(mirror: Path, tmp_path: Path) -> None:
    assert files(fetch("tool", tmp_path / "into", libraries=True)) == ["from-library", "from-tool"]


def test_a_failure_says_what_apt_said_and_leaves_nothing(mirror: Path, tmp_path: Path) -> None:
    with pytest.raises(OperationUnsupported, match=r"(?s)apt-get download nowhere: .*E: no nowhere"):
        fetch("nowhere", tmp_path / "into")
    assert files(tmp_path / "into") == []


def test_no_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(OperationUnsupported, match="no apt-get"):
        fetch("tool", tmp_path / "into")
