"""What a user of the embedded driver wants that libvirt-python has no name for."""

from __future__ import annotations

from pytest_embedvm.api.early_events import deregister_events, register_events
from pytest_embedvm.api.explain import Need, explain
from pytest_embedvm.driver.uri import make_uri

__all__ = ["Need", "deregister_events", "explain", "make_uri", "register_events"]
