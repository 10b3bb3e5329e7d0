"""settling: a guest that works is awaited, one that never rests is not."""

from __future__ import annotations

import pytest

from pytest_embedvm.guest import VM
from pytest_embedvm.guest.templates import settling
from pytest_embedvm.guest.templates.settling import settle

#: Keeps the guest's CPU busy for so many seconds, behind the command that starts it.
BUSY = """
(
    read -r now _ </proc/uptime
    end=$((${{now%.*}} + {}))
    until [ ${{now%.*}} -ge $end ]; do read -r now _ </proc/uptime; done
    echo over >/tmp/over
) >/dev/null 2>&1 </dev/null &
"""


def test_what_a_guest_is_about_to_do_is_awaited(fresh: VM) -> None:
    fresh.wait_ready()
    fresh.run(BUSY.format(3))
    settle(fresh)
    assert fresh.read_text("/tmp/over") == "over\n"


def test_a_guest_that_never_rests_is_taken_as_it_is(fresh: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "SETTLE_TIMEOUT_S", 2.0)
    fresh.wait_ready()
    fresh.run(BUSY.format(3600))
    settle(fresh)
    assert fresh.run("ls /tmp/over", check=False).returncode != 0
