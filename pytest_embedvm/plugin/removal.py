"""The end of a test's root: its connections closed, what is in it removed, and what stayed found."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.guest.wait import if_connected
from pytest_embedvm.plugin.leaks import leftovers

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def close(connection: libvirt.virConnect) -> None:
    """Close CONNECTION, unless the test has."""
    with if_connected():
        connection.close()


def remove(root: Path, stayed: list[str], *, ours: bool) -> None:
    """Remove what the driver made in ROOT, and the rest if it is OURS; what is still in use goes to STAYED."""
    stayed += leftovers(root)
    try:
        Root(root).purge()
    except SystemFailure as error:  # somebody else has it open
        stayed.append(error.message)
        return
    if ours:
        shutil.rmtree(root, ignore_errors=True)


def complain(stayed: list[str], what: str = "the test") -> None:
    """Fail, if anything STAYED, once WHAT is over."""
    if stayed:
        pytest.fail(f"embedvm: {what} is over, and still there is {'; '.join(stayed)}", pytrace=False)
