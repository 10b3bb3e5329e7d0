"""libvirt's event loop, as far as programs drive it: accepted; the driver runs a loop of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Final

from pytest_embedvm.api.unsupported import unsupported_function

#: How long one round waits for an event. It bounds only how often a program's own loop turns.
ROUND_S: Final = 1.0

_delivered = threading.Condition()
#: How many callbacks have run, and how many of them a round has returned for.
_count = _told = 0


def event_delivered() -> None:
    """Tell those who wait in `virEventRunDefaultImpl` that a callback has run."""
    global _count
    with _delivered:
        _count += 1
        _delivered.notify_all()


def virEventRegisterDefaultImpl() -> int:
    """Accepted: events are delivered without it."""
    return 0


def virEventRegisterImpl(
    addHandle: Callable[..., Any],
    updateHandle: Callable[..., Any],
    removeHandle: Callable[..., Any],
    addTimeout: Callable[..., Any],
    updateTimeout: Callable[..., Any],
    removeTimeout: Callable[..., Any],
) -> None:
    """Accepted, and none of the functions is ever called: the driver watches nothing in the caller's loop."""


def virEventRunDefaultImpl() -> int:
    """Wait until a callback has run since the last call, at most one second."""
    global _told
    with _delivered:
        _delivered.wait_for(lambda: _count != _told, ROUND_S)
        _told = _count
    return 0


def virInitialize() -> int:
    """Accepted: there is nothing to initialise."""
    return 0


virEventAddHandle = unsupported_function("virEventAddHandle")
virEventAddTimeout = unsupported_function("virEventAddTimeout")
virEventInvokeFreeCallback = unsupported_function("virEventInvokeFreeCallback")
virEventRemoveHandle = unsupported_function("virEventRemoveHandle")
virEventRemoveTimeout = unsupported_function("virEventRemoveTimeout")
virEventUpdateHandle = unsupported_function("virEventUpdateHandle")
virEventUpdateTimeout = unsupported_function("virEventUpdateTimeout")


def _forget_in_child() -> None:
    """A child of fork has the condition as it was at that moment, and maybe a thread of its parent's in it."""
    global _delivered
    _delivered = threading.Condition()


os.register_at_fork(after_in_child=_forget_in_child)
