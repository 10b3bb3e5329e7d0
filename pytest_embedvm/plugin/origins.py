"""What a run says of its VMs: which were cloned, which booted and why. From the reports, so that all workers' count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Final, TypeAlias

import pytest

from pytest_embedvm.plugin.settings import MADE, ORIGIN

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

#: What the terminal shows of a report: a category, a letter, and a word, which may have colours.
Status: TypeAlias = "tuple[str, str, str | tuple[str, dict[str, bool]]]"

#: How the words of a clone begin, see `guest/templates/origin.py`.
_CLONED: Final = "cloned"


class Origins:
    """A plugin of pytest's: a remark at each test's line of `-v`, and a line in the end."""

    def __init__(self) -> None:
        self._origins: Counter[str] = Counter()
        self._made: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":  # it has the properties of all phases
            self._origins.update(_said(report, ORIGIN))
            self._made.update(_said(report, MADE))

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(
        self, report: pytest.CollectReport | pytest.TestReport, config: pytest.Config
    ) -> Generator[None, Status, Status]:
        status = yield
        if status and report.when in ("setup", "call") and config.get_verbosity() > 0:
            return _remarked(status, Counter(_said(report, ORIGIN)))
        return status

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        for line in self.lines():
            terminalreporter.write_line(f"embedvm: {line}")

    def lines(self) -> Iterator[str]:
        """What is to be said in the end."""
        if self._origins:
            yield summary(self._origins)
        for made, times in self._made.items():
            yield made if times == 1 else f"{made}; {times} times"


def _said(report: pytest.CollectReport | pytest.TestReport, name: str) -> list[str]:
    return [str(value) for key, value in getattr(report, "user_properties", ()) if key == name]


def _remarked(status: Status, origins: Counter[str]) -> Status:
    """STATUS with ORIGINS behind its word, if it has one."""
    category, letter, word = status
    text, colours = word if isinstance(word, tuple) else (word, None)
    if not text or not origins:
        return status
    remark = f"{text} ({'; '.join(_times(origins.items()))})"
    return category, letter, (remark, colours) if colours else remark


def _times(counted: Iterable[tuple[str, int]]) -> Iterator[str]:
    for words, times in counted:
        yield words if times == 1 else f"{times} × {words}"


def summary(origins: Counter[str]) -> str:
    """ORIGINS as one sentence: how many VMs were cloned, how many booted, and why these did."""
    cloned = sum(times for words, times in origins.items() if words.startswith(_CLONED))
    booted = Counter({words: times for words, times in origins.items() if not words.startswith(_CLONED)})
    parts = [f"{cloned} cloned"] if cloned else []
    if booted:
        reasons = [(words.partition(": ")[2], times) for words, times in booted.most_common() if ": " in words]
        why = f" ({'; '.join(_times(reasons))})" if reasons else ""
        parts.append(f"{booted.total()} booted{why}")
    return f"VMs: {', '.join(parts)}"
