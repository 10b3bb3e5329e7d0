"""`embedvm ps`: roots that other processes have open, too."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.cli import ps
from pytest_embedvm.cli.main import main
from tests.cli.conftest import DEADLINE_S, Boot, pid_of

#: Opens the root that it is told and starts a machine, says so, and stays until its input ends.
OTHER = """
import sys
from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri

connection = libvirt.open(make_uri(sys.argv[1]))
domain = connection.createXML('''<domain type='qemu'><name>other %</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os></domain>''', libvirt.VIR_DOMAIN_START_PAUSED)
print("up", flush=True)
sys.stdin.read()
connection.close()
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has tmp_path/other open, and a paused VM in it."""
    words = [sys.executable, "-c", OTHER, str(tmp_path / "other")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        yield process
        process.communicate(timeout=DEADLINE_S)


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["ps", "--json"]) == 0
    return {root["path"]: root for root in json.loads(capsys.readouterr().out)}


def test_another_processs_root_is_listed_with_its_machine(
    other: subprocess.Popen[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "other"
    said = listed(capsys)[str(root)]
    assert said["pid"] == other.pid
    assert said["command"].startswith(sys.executable)
    (domain,) = said["domains"]
    assert (domain["id"], domain["name"], domain["pid"]) == (1, "other %", pid_of(root, "other %25"))
    assert (domain["state"], domain["reason"], domain["kept"]) == ("paused", "user", False)
    assert 0 <= domain["age_s"] < DEADLINE_S * 10
    assert main(["ps"]) == 0
    text = capsys.readouterr().out
    head = rf"^\d+  {root}  \[{said['label']}\]\n   open in process {other.pid}: .*\n"
    assert re.search(head + r"   1  other %  paused \(user\)  pid \d+  \d+ ", text, re.MULTILINE)


def test_a_root_lives_as_long_as_it_is_open(
    boot: Boot, root: Path, connection: libvirt.virConnect, capsys: pytest.CaptureFixture[str]
) -> None:
    assert listed(capsys)[str(root)]["domains"] == []
    domain = boot()
    assert [d["name"] for d in listed(capsys)[str(root)]["domains"]] == ["a"]
    domain.destroy()
    assert listed(capsys)[str(root)]["domains"] == []


def test_a_machine_is_found_where_no_index_tells_of_its_root(
    boot: Boot, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    boot()
    monkeypatch.setenv("EMBEDVM_CACHE_DIR", str(tmp_path / "cache"))
    found = listed(capsys)[str(root)]
    assert (found["pid"], [d["name"] for d in found["domains"]]) == (os.getpid(), ["a"])


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90061, "1 d 1 h"), (86400 * 3, "3 d")],
)
def test_ages_are_for_people(seconds: float, said: str) -> None:
    assert ps.age(seconds) == said
