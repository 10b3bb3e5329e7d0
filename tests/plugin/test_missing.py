"""What becomes of a test that wants what the host's libvirt does not have."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.embedvm(secrets="host")
def test_connection(embedvm_conn): pass

@pytest.mark.embedvm(network="host")
def test_machine(vm): pass

def test_own(embedvm_conn): pass
"""


@pytest.fixture(autouse=True)
def no_libvirtd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pytester: pytest.Pytester) -> None:
    monkeypatch.setenv("EMBEDVM_HOST_URI", f"qemu+unix:///system?socket={tmp_path}/nobody")
    pytester.makepyfile(TESTS)


@pytest.mark.parametrize("chosen", ["default", "option", "ini"])
def test_it_is_skipped_with_the_reason(pytester: pytest.Pytester, chosen: str) -> None:
    if chosen == "ini":
        pytester.makeini("[pytest]\nembedvm_missing = skip")
    result = pytester.runpytest("--embedvm", "-ra", *(["--embedvm-missing=skip"] if chosen == "option" else []))
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.re_match_lines(
        [r"SKIPPED .*: needs the host's libvirt: (Failed to connect socket to|.*is not there)"]
    )


@pytest.mark.parametrize("chosen", ["option", "ini"])
def test_or_it_fails_with_the_reason(pytester: pytest.Pytester, chosen: str) -> None:
    if chosen == "ini":
        pytester.makeini("[pytest]\nembedvm_missing = fail")
    result = pytester.runpytest("--embedvm", *(["--embedvm-missing=fail"] if chosen == "option" else []))
    result.assert_outcomes(passed=1, errors=2)
    result.stdout.re_match_lines([r".*needs the host's libvirt: .* \(--embedvm-missing fail\)"])
