from __future__ import annotations

from pathlib import Path

import pytest

from pytest_embedvm.errors import OperationUnsupported
from pytest_embedvm.guest.image.kernel import KernelFiles, find_kernel, kernel_variables
from tests.guest.image.test_vmlinux import bzimage


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with no kernel, on a host with no packages to fetch."""
    monkeypatch.setenv("PATH", "/nonexistent")
    (tmp_path / "host/boot").mkdir(parents=True)
    return tmp_path / "host"


def install(host: Path, release: str, *, modules: bool = True, at: str = "boot/vmlinuz-{}") -> Path:
    image = host / at.format(release)
    image.parent.mkdir(parents=True, exist_ok=True)
    image.write_bytes(b"")
    if modules:
        (host / "lib/modules" / release).mkdir(parents=True, exist_ok=True)
        (host / "lib/modules" / release / "modules.dep").write_text("")
    return image


def test_the_newest_with_modules(host: Path, tmp_path: Path) -> None:
    install(host, "6.9.0")
    newest = install(host, "6.10.0")
    install(host, "6.11.0", modules=False)
    assert find_kernel(tmp_path, host=host) == KernelFiles(newest, host / "lib/modules/6.10.0")


def test_a_cloud_kernel_before_a_newer_one(host: Path, tmp_path: Path) -> None:
    cloud = install(host, "6.1.0-1-cloud-amd64")
    install(host, "6.10.0")
    assert find_kernel(tmp_path, host=host).image == cloud


def test_fedora_keeps_it_beside_the_modules(host: Path, tmp_path: Path) -> None:
    image = install(host, "6.10.0.fc41", at="lib/modules/{}/vmlinuz")
    assert find_kernel(tmp_path, host=host).image == image


def test_none_says_why_and_what_to_do(host: Path, tmp_path: Path) -> None:
    install(host, "6.11.0", modules=False)
    with pytest.raises(OperationUnsupported, match=r"vmlinuz-6\.11\.0 has no modules.*no apt-get.*EMBEDVM_KERNEL"):
        find_kernel(tmp_path, host=host)


def test_an_unreadable_one_is_told(host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(host, "6.11.0")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OperationUnsupported, match="is not readable by this user"):
        find_kernel(tmp_path, host=host)


def test_the_users_own(host: Path, tmp_path: Path) -> None:
    own = tmp_path / "tree/boot/mine"
    own.parent.mkdir(parents=True)
    own.write_bytes(bzimage(b""))
    assert find_kernel(tmp_path, kernel=own, host=host) == KernelFiles(own, None)
    modules = tmp_path / "tree/lib/modules/6.1.0-cloud"
    modules.mkdir(parents=True)
    (modules / "modules.dep").write_text("")
    assert find_kernel(tmp_path, kernel=own, host=host) == KernelFiles(own, modules)
    assert find_kernel(tmp_path, kernel=own, modules=host, host=host) == KernelFiles(own, host)
    with pytest.raises(OperationUnsupported, match="cannot read the kernel"):
        find_kernel(tmp_path, kernel=tmp_path / "none", host=host)


def test_arguments_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDVM_KERNEL", "/k")
    monkeypatch.setenv("EMBEDVM_KERNEL_MODULES", "/m")
    assert kernel_variables(None, None) == (Path("/k"), Path("/m"))
    assert kernel_variables(Path("/a"), Path("/b")) == (Path("/a"), Path("/b"))
