"""`embedvm screenshot`."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pytest_embedvm.cli.door import Door, Refused
from pytest_embedvm.cli.main import main
from tests.cli.conftest import PTY, Boot

SCREEN = PTY + "<video><model type='vga'/></video>"


def test_a_png_whose_file_qemu_does_not_open(
    boot: Boot, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boot(devices=SCREEN)
    (tmp_path / "pictures").mkdir()
    monkeypatch.chdir(tmp_path / "pictures")
    assert main(["screenshot", str(root)]) == 0
    assert capsys.readouterr().out == "a.png\n"
    picture = Path("a.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", picture[16:24]) > (100, 100)
    assert [path.name for path in Path.cwd().iterdir()] == ["a.png"]
    with Door.open(next(root.glob("lib/qemu/domain-*/debug.sock"))) as door:
        assert not any(fdset["fds"] for fdset in door.execute("query-fdsets"))


def test_a_ppm_where_it_is_named_so(boot: Boot, root: Path, tmp_path: Path) -> None:
    boot(devices=SCREEN)
    assert main(["screenshot", str(root), "a", str(tmp_path / "shot.ppm")]) == 0
    assert (tmp_path / "shot.ppm").read_bytes().startswith(b"P6\n")


def test_a_ppm_from_a_qemu_that_writes_no_png(
    boot: Boot, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boot(devices=SCREEN)
    monkeypatch.chdir(tmp_path)
    really = Door.execute

    def without_png(self: Door, command: str, arguments: dict[str, object] | None = None, **more: object) -> object:
        if arguments and "format" in arguments:
            raise Refused("QEMU refused 'screendump': Parameter 'format' is unexpected")
        return really(self, command, arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Door, "execute", without_png)
    assert main(["screenshot", str(root)]) == 0
    assert capsys.readouterr().out == "a.ppm\n"
    assert not Path("a.png").exists()
    assert main(["screenshot", str(root), "a", "b.png"]) == 1


@pytest.mark.parametrize(
    ("devices", "file", "says"),
    [
        (PTY, "x.png", "There is no console to take a screendump from"),
        (SCREEN, "no/such/x.png", "cannot write no/such/x.png: No such file or directory"),
    ],
)
def test_what_cannot_be_taken_leaves_no_file(
    boot: Boot,
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    devices: str,
    file: str,
    says: str,
) -> None:
    boot(devices=devices)
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["screenshot", str(root), "a", file]) == 1
    assert says in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
