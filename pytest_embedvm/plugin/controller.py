"""A worker of pytest-xdist whose controller has died: its machines die at once, its tests are interrupted."""

from __future__ import annotations

import os
import select
import signal
import threading
from typing import Any, Final

import pytest

#: The key under which a worker is told its controller's process id.
CONTROLLER: Final = "embedvm_controller"


def introduce(node: Any) -> None:
    """Tell NODE, a worker that is about to start, who its controller is; one on another host could not see it."""
    spec = node.gateway.spec
    if spec.popen and not spec.via:
        node.workerinput[CONTROLLER] = os.getpid()


def watch(config: pytest.Config) -> None:
    """From now on, end with the controller.

    By itself a worker lives on for 5 to 15 s: it waits until its tests have ended (execnet: _terminate_execution).
    """
    pid = getattr(config, "workerinput", {}).get(CONTROLLER)
    if pid is None or not hasattr(os, "pidfd_open"):  # macOS
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        descriptor = None
    threading.Thread(target=_wait, args=(pid, descriptor), name="embedvm-controller", daemon=True).start()


def _wait(pid: int, descriptor: int | None) -> None:
    if descriptor is not None:
        select.select([descriptor], [], [])
        os.close(descriptor)
    # Not before: loading these takes as long as loading the rest of the plugin several times.
    from pytest_embedvm.loop import loop_thread
    from pytest_embedvm.qemu.process import end_all

    loop_thread().loop.call_soon_threadsafe(end_all, f"the controller of this test session, process {pid}, has died")
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, signal.SIGINT)  # execnet: what it does after 5 s
