"""Which directories can be no root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_embedvm.driver.roots import layout
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import ConfigUnsupported


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/var", "/var/lib", "/run", "/var/run", "/var/log", "/var/cache", "/../var"]
)
def test_the_hosts_own_directories(path: str) -> None:
    with pytest.raises(ConfigUnsupported, match="root path "):
        Root(Path(path))


@pytest.mark.parametrize(
    "path",
    ["/etc/libvirt", "/var/lib/libvirt", "/var/lib/libvirt/qemu/mine", "/run/libvirt/qemu", "/var/run/libvirt/x"],
)
def test_the_system_daemons(path: str) -> None:
    there = _exists(path)
    with pytest.raises(ConfigUnsupported, match=r"belongs to libvirt's daemon \(qemu:///system\)"):
        Root(Path(path))
    assert _exists(path) == there


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except PermissionError:
        return False


@pytest.mark.parametrize("variable", ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"])
def test_the_users_own_daemons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, str(tmp_path))
    for name in ("libvirt", "libvirt/qemu", "libvirt/qemu/embed/deep"):
        with pytest.raises(ConfigUnsupported, match=r"belongs to this user's libvirt \(qemu:///session\)"):
            Root(tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert Root(tmp_path).path == tmp_path
    assert Root(tmp_path / "libvirtual").path == tmp_path / "libvirtual"


def test_the_homes_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    with pytest.raises(ConfigUnsupported, match=r"qemu:///session"):
        layout.require_free(tmp_path / ".config/libvirt/qemu")


def test_another_spelling_is_the_same_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "libvirt").mkdir()
    (tmp_path / "link").symlink_to("libvirt")
    (tmp_path / "host").symlink_to("/")
    for name in ("link", "link/qemu/", "libvirt/../link/."):
        with pytest.raises(ConfigUnsupported, match="qemu:///session"):
            Root(tmp_path / name)
    with pytest.raises(ConfigUnsupported, match="must not be '/'"):
        Root(tmp_path / "host")


def test_images_are_their_users_own() -> None:
    layout.require_free(Path("/var/lib/libvirt/images/tests/root"))


BOUND = """
import os, sys
from pathlib import Path
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import EmbedError
place = Path(sys.argv[1])
for what in ("/", str(place / "real")):
    os.system(f"mount --bind '{what}' '{place}/bound'")
    try:
        root = Root(place / "bound")
    except EmbedError as error:
        print(error)
    else:
        print(root.identity == Root(place / "real").identity)
        root.acquire()
        try:
            Root(place / "real").acquire()
        except EmbedError as error:
            print(error)
        root.release()
    os.system(f"umount '{place}/bound'")
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount")
def test_a_bind_mount_is_seen_through(tmp_path: Path) -> None:
    for name in ("real", "bound"):
        (tmp_path / name).mkdir()
    words = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", BOUND, str(tmp_path)]
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode != 0 and "unshare" in done.stderr:
        pytest.skip(f"no mount namespaces here: {done.stderr}")
    first, second, third = done.stdout.splitlines()
    assert first == "unsupported configuration: root path must not be '/': it holds the host's own files"
    assert second == "True"
    assert third.startswith(f"Failed to acquire pid file '{tmp_path}/real/run/qemu/driver.pid'")
