"""logs: every record says whose it is, and nothing is logged past that."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

from pytest_embedvm.logs import HOST, Log
from tests.test_architecture import MODULES, PACKAGE, dotted


def said(caplog: pytest.LogCaptureFixture) -> tuple[str, object, object]:
    (record,) = caplog.records
    return record.getMessage(), record.__dict__["embedvm_root"], record.__dict__["embedvm_domain"]


def test_a_record_about_a_root(caplog: pytest.LogCaptureFixture) -> None:
    Log("r-12ab").warning("%s of %s", 1, 2)
    assert said(caplog) == ("[r-12ab] 1 of 2", "r-12ab", None)


def test_a_record_about_a_domain(caplog: pytest.LogCaptureFixture) -> None:
    Log("r-12ab").about("vm").error("gone")
    assert said(caplog) == ("[r-12ab/vm] gone", "r-12ab", "vm")


def test_what_belongs_to_no_root(caplog: pytest.LogCaptureFixture) -> None:
    HOST.warning("no cache")
    assert said(caplog) == ("[host] no cache", "host", None)


@pytest.mark.parametrize("name", ["100%d", "a\nb", "a] [b", "\udcff"])
def test_a_name_cannot_break_the_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    Log("r").about(name).warning("%d lines", 7)
    message, _, domain = said(caplog)
    assert domain == name
    assert message.endswith("] 7 lines")
    assert message.isprintable()
    assert message.count("]") == 1


def test_the_record_names_who_logged_and_keeps_their_own_attributes(caplog: pytest.LogCaptureFixture) -> None:
    Log("r").warning("x", extra={"mine": 1})
    (record,) = caplog.records
    assert (record.name, record.module, record.__dict__["mine"]) == ("pytest_embedvm", "test_logs", 1)


def test_an_exception_s_traceback_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    try:
        int("mine")
    except ValueError:
        Log("r").exception("failed")
    assert "ValueError: invalid literal" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def names(tree: ast.AST) -> set[str]:
    """What a module takes from elsewhere: what it imports, and the attributes it asks for."""
    found = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for alias in n.names}
    found |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return found | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


@pytest.mark.parametrize("path", [p for p in MODULES if p != PACKAGE / "logs.py"], ids=dotted)
def test_no_module_logs_past_it(path: Path) -> None:
    past = names(ast.parse(path.read_text())) & {"logging", "getLogger", "LOGGER"}
    assert not past, f"{path} knows {past}: log by a root's `log`, or `logs.HOST`"
