"""Power-off and reboot, waited for by the events that tell of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pytest_embedvm import libvirt
from pytest_embedvm.guest.agent import Agent
from pytest_embedvm.guest.wait import POWERED_OFF, Deadline, Errand, Watch

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")


def shutdown(domain: libvirt.virDomain, watch: Watch, deadline: Deadline) -> None:
    """Ask the guest to power off, and return once the machine has ended; at once when it had already.

    :raise GuestStopped: when it panics, crashes or is destroyed instead.
    :raise WaitTimeout: at the deadline.
    :raise libvirtError: when it cannot be asked.
    """
    awaited = "its power-off"
    if watch.stopped is not None:
        return
    reason = _ask(domain.shutdown, watch, awaited, lambda: watch.stopped, deadline)
    if reason != POWERED_OFF:
        raise watch.gone(awaited, reason)


def reboot(domain: libvirt.virDomain, watch: Watch, agent: Agent, deadline: Deadline) -> None:
    """Ask the guest to reboot, and return once its agent answers again; errors as `shutdown`."""
    before = watch.resets
    _ask(domain.reboot, watch, "its reset", lambda: watch.resets > before or None, deadline)
    agent.wait_ready(deadline)


def _ask(
    order: Callable[[], int],
    watch: Watch,
    awaited: str,
    happened: Callable[[], T | None],
    deadline: Deadline,
) -> T:
    """Give the ORDER, which may take as long as the guest does to obey, and wait until it HAPPENED."""
    reason = watch.dead()
    if reason is not None:
        raise watch.gone(awaited, reason)
    given = Errand(order, watch.changed)

    def look() -> T | None:
        found = happened()
        if found is None and given.error is not None and watch.active:
            raise given.error
        return found

    return watch.until(awaited, look, deadline)
