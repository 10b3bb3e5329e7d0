"""What the inner runs of pytest have in common."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

#: A machine that runs its firmware and has no guest: it starts in a moment.
TINY = """
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <serial type='pty'><target port='0'/></serial>
    <memballoon model='none'/>
  </devices>
</domain>
"""


@pytest.fixture(autouse=True)
def plain_pytest(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inner runs without plugins that cost a second each, or shuffle what a test wants in order."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:randomly -p no:cacheprovider")


@pytest.fixture
def tiny(pytester: pytest.Pytester) -> None:
    """Inner tests' `embedvm_domain` and `embedvm_domain_xml` are machines without a guest."""
    pytester.makeconftest(
        f"import pytest\n\nTINY = '''{TINY}'''\n\n"
        "@pytest.fixture\ndef embedvm_domain_xml(): return TINY.format(name='tiny')\n"
    )


def environments(marker: str) -> Iterator[tuple[int, str]]:
    """The processes (id, name) that have MARKER in their environment or command line."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if marker.encode() in said:
                yield int(process.name), (process / "comm").read_text().strip()
        except OSError:  # it has ended, or is another user's
            continue
