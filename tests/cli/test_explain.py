"""`embedvm explain`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pytest_embedvm.cli.main import main

NETWORKED = """<domain type='qemu'><name>a</name><devices>
  <interface type='network'><source network='default'/><filterref filter='clean-traffic'/></interface>
</devices></domain>"""


def test_each_element_is_a_line_and_the_status_says_that_there_are_some(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.xml"
    file.write_text(NETWORKED)
    assert main(["explain", str(file)]) == 3
    assert capsys.readouterr().out == (
        "/domain/devices/interface calls the network driver: "
        "an interface of type 'network' is a port of network 'default'\n"
        "/domain/devices/interface/filterref calls the nwfilter driver: "
        "the interface's traffic passes through filter 'clean-traffic'\n"
    )


def test_a_domain_that_calls_nobody_is_silent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("<domain/>"))
    assert main(["explain", "-"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read {file}: No such file or directory"),
        (b"\xff", "cannot read {file}: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
        (b"<domain>", "{file}: (domain_definition):1: Premature end of data in tag domain line 1"),
        (b"<network/>", "{file}: XML error: expecting root element of 'domain', not 'network'"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, says: str
) -> None:
    file = tmp_path / "a.xml"
    if content is not None:
        file.write_bytes(content)
    assert main(["explain", str(file)]) == 1
    assert capsys.readouterr().err.startswith("embedvm explain: " + says.format(file=file))
