"""What a user of the embedded driver wants that libvirt-python has no name for."""

from __future__ import annotations

from pytest_embedvm.api.explain import Need, explain
from pytest_embedvm.driver.uri import make_uri

__all__ = ["Need", "explain", "make_uri"]
