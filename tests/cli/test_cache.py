"""`embedvm cache`: what it lists, what it removes, and what it must leave."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_embedvm.cli.main import main
from pytest_embedvm.guest.templates.entry import seal
from pytest_embedvm.qemu.image import create_blank, create_overlay

#: Holds KEY of the cache that it is told.
HOLDER = """
import sys
from pathlib import Path
from pytest_embedvm.guest.templates.store import Store

Store(Path(sys.argv[1], "templates"), what="template", limit=None).get(sys.argv[2], lambda _: None, title="")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(cache: Path, kind: str, key: str, title: str, age: float, on: Path | None = None) -> Path:
    directory = cache / kind / key
    directory.mkdir(parents=True, mode=0o700)
    create_overlay(on / "disk", directory / "disk", "qcow2") if on else create_blank(directory / "disk", 1 << 20)
    seal(directory, title, None, cache)
    os.utime(directory, (time.time() - age,) * 2)
    return directory


@pytest.fixture
def full(cache: Path) -> dict[str, Path]:
    """A cache with an image, a template that stands on it, and another template."""
    image = put(cache, "images", "1111aaaa", "with-data", 7300)
    return {
        "image": image,
        "above": put(cache, "templates", "2222bbbb", "a VM of with-data", 130, image),
        "other": put(cache, "templates", "2233cccc", "the built-in guest", 86400),
    }


@pytest.fixture
def holder(cache: Path, full: dict[str, Path]) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-c", HOLDER, str(cache), "2233cccc"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("full")
def test_it_lists_what_is_there_the_one_used_last_first(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", re.sub(r"\d+(\.\d)? KiB", "n", row)) for row in rows] == [
        ["2222bbbb", "template", "n", "used 2 min 10 s ago", "a VM of with-data"],
        ["1111aaaa", "image", "n", "used 2 h 1 min ago", "with-data"],
        ["2233cccc", "template", "n", "used 1 d ago", "the built-in guest"],
    ]
    assert re.fullmatch(rf"\d+(\.\d)? KiB in {cache}", total)


def test_an_empty_cache_is_said_to_be(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 0
    assert capsys.readouterr().out == f"nothing is in {cache}\n"
    assert main(["cache", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_it_says_who_uses_one(holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert f"in use by process {holder.pid} ({sys.executable} -c" in first


def test_as_json(full: dict[str, Path], holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "ls", "--json"]) == 0
    held, above, image = json.loads(capsys.readouterr().out)
    assert held["pids"] == [holder.pid]
    assert held["in_use"] is True
    assert 130 <= above.pop("age_s") < 7200
    assert above.pop("size_bytes") >= 4096
    assert above == {
        "key": "2222bbbb", "kind": "template", "title": "a VM of with-data", "path": str(full["above"]),
        "in_use": False, "pids": [], "stands_on": ["1111aaaa"], "whole": True,
    }  # fmt: skip
    assert image["kind"] == "image"


def test_one_is_removed_by_the_beginning_of_its_key(full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "2233"]) == 0
    assert capsys.readouterr().out == "removed template 2233cccc (the built-in guest)\n"
    assert not full["other"].exists()
    assert full["above"].exists()


@pytest.mark.parametrize(("key", "what"), [("22", "the key of several: there is 2222bbbb, 2233cccc"), ("x", "no key")])
def test_a_key_that_is_not_one_removes_nothing(
    full: dict[str, Path], key: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "rm", "1111", key]) == 1
    assert f"'{key}' is {what}" in capsys.readouterr().err
    assert all(path.exists() for path in full.values())


def test_all_of_a_kind_are_removed(full: dict[str, Path]) -> None:
    assert main(["cache", "rm", "--kind", "template"]) == 0
    assert [name for name, path in full.items() if path.exists()] == ["image"]
    assert main(["cache", "rm", "--kind", "image"]) == 0
    assert not full["image"].exists()


def test_what_another_stands_on_is_left_alone(full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "rm", "1111"]) == 1
    said = "embedvm cache: image 1111aaaa (with-data) is left alone: template 2222bbbb needs it\n"
    assert capsys.readouterr().err == said
    assert full["image"].exists()
    assert main(["cache", "rm", "1111", "2222"]) == 0
    assert not full["image"].exists()


def test_what_is_in_use_is_left_alone_and_the_rest_goes(
    full: dict[str, Path], holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "rm", "--all"]) == 1
    assert f"2233cccc (the built-in guest) is left alone: in use by process {holder.pid}" in capsys.readouterr().err
    assert [name for name, path in full.items() if path.exists()] == ["other"]
    holder.kill()
    holder.wait()
    assert main(["cache", "rm", "--all"]) == 0
    assert not full["other"].exists()


@pytest.mark.parametrize("words", [["cache"], ["cache", "rm"], ["cache", "rm", "--all", "1111"], ["cache", "rm", "-x"]])
def test_what_is_not_understood_removes_nothing(full: dict[str, Path], words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert all(path.exists() for path in full.values())


def test_one_that_is_damaged_is_said_to_be(full: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    (full["image"] / "disk").unlink()
    assert main(["cache", "ls"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.endswith("damaged, or dropped") for row in rows[:-1]] == [True, True, False]
