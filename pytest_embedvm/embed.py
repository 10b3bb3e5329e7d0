"""What a user of the embedded driver wants that libvirt-python has no name for."""

from __future__ import annotations

from pytest_embedvm.api.capture import CAPTURE_BYTES, Capture, capture
from pytest_embedvm.api.early_events import deregister_events, register_events
from pytest_embedvm.api.explain import Need, explain
from pytest_embedvm.api.faults import Impairment, NetworkFault, deafen, heal, impair, impairments, partition, set_link
from pytest_embedvm.api.forwards import forward
from pytest_embedvm.api.templates import (
    begin_template,
    checkpoint,
    clone,
    freeze,
    obstacles,
    reset_to_template,
    restore,
    template_from,
)
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.qemu.cache import default_cache_dir

__all__ = [
    "CAPTURE_BYTES",
    "Capture",
    "Impairment",
    "Need",
    "NetworkFault",
    "begin_template",
    "capture",
    "checkpoint",
    "clone",
    "deafen",
    "default_cache_dir",
    "deregister_events",
    "explain",
    "forward",
    "freeze",
    "heal",
    "impair",
    "impairments",
    "make_uri",
    "obstacles",
    "partition",
    "register_events",
    "reset_to_template",
    "restore",
    "set_link",
    "template_from",
]
