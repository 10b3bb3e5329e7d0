from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pytest_embedvm.driver.descriptors import connect_unix, listen_unix
from pytest_embedvm.errors import SystemFailure


@pytest.mark.parametrize("above", ["x" * 220, "with space, comma", "ünïcode" * 20, "a/" * 100])
def test_no_socket_depends_on_the_length_of_its_path(tmp_path: Path, above: str) -> None:
    directory = tmp_path / above
    directory.mkdir(parents=True)
    path = directory / "org.qemu.guest_agent.0"
    with listen_unix(path) as listener, connect_unix(path) as client:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        server, _ = listener.accept()
        with server:
            client.sendall(b"hello")
            assert server.recv(5) == b"hello"


def test_replaces_a_dead_socket_and_nothing_else(tmp_path: Path) -> None:
    listen_unix(tmp_path / "s").close()
    with pytest.raises(SystemFailure, match=r"Failed to connect socket to '.*/s': Connection refused"):
        connect_unix(tmp_path / "s")
    listen_unix(tmp_path / "s").close()
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SystemFailure, match=r"Failed to bind socket to '.*/file': Address already in use"):
        listen_unix(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_says_what_is_wrong_and_leaves_no_descriptor(tmp_path: Path) -> None:
    before = open_descriptors()
    with pytest.raises(SystemFailure, match="No such file or directory"):
        connect_unix(tmp_path / "nowhere" / "s")
    with pytest.raises(SystemFailure, match=r"AF_UNIX path too long"):
        listen_unix(tmp_path / ("n" * 150))
    assert open_descriptors() == before
