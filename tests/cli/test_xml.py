"""`embedvm xml`."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import canonicalize

import pytest

from pytest_embedvm.cli.main import main
from tests.cli.conftest import Boot


def test_it_is_the_live_xml(boot: Boot, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    domain = boot()
    assert main(["xml", str(root), "a"]) == 0
    printed = capsys.readouterr().out
    assert "/dev/pts/" in printed
    assert canonicalize(printed, strip_text=True) == canonicalize(domain.XMLDesc(), strip_text=True)
