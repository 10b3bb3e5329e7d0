"""QEMU and accelerator of the host, as the session sees them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import pytest

from pytest_embedvm.errors import EmbedError
from pytest_embedvm.guest.templates.store import Store
from pytest_embedvm.loop import loop_thread
from pytest_embedvm.plugin.settings import Accel, Settings
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.cache import HostCapabilities, default_cache_dir, host_capabilities

#: pytest shows the line that called, not these.
__tracebackhide__ = True


def probe(accel: Accel) -> HostCapabilities:
    """What QEMU can do here and what runs guest code, from the cache or by asking.

    :raise SystemFailure: when there is no QEMU.
    :raise OperationUnsupported: when KVM was asked for and is not worth having.
    """
    return _ask(accel, find_binary(), default_cache_dir())


def _ask(accel: Accel, binary: Path, cache_dir: Path) -> HostCapabilities:
    return loop_thread().run(host_capabilities(binary, cache_dir, accel))


def header(settings: Settings) -> list[str]:
    """The plugin's lines in pytest's header: what was chosen, and why."""
    try:
        known = probe(settings.accel)
    except EmbedError as error:
        return [f"embedvm: {error.message}"]
    version = ".".join(map(str, known.capabilities.version))
    accelerator = known.accelerator
    return [f"embedvm: QEMU {version}, {accelerator.name.upper()}: {accelerator.reason}", _boots(settings)]


def _boots(settings: Settings) -> str:
    """How VMs start, and what is there for it."""
    boot = settings.choices["boot"]
    how = {"auto": "VMs are clones where they can be", "clone": "VMs are clones", "cold": "VMs boot"}[boot]
    if boot == "cold":
        return f"embedvm: {how} (embedvm_boot={boot})"
    templates = Store(default_cache_dir() / "templates", what="template", limit=None).entries()
    taken = sum(template.size for template in templates)
    there = f"{len(templates)} template{'' if len(templates) == 1 else 's'} in the cache, {taken >> 20} MiB"
    anew = ", made anew in this run" if settings.create_templates else ""
    return f"embedvm: {how} (embedvm_boot={boot}); {there}{anew}"


def require_kvm(settings: Settings) -> None:
    """Stop the session unless KVM is worth having.

    :raise pytest.UsageError: with the probe's reason.
    """
    option = "--embedvm-require-kvm" if settings.require_kvm else "--embedvm-accel kvm"
    try:
        probe("kvm")
    except EmbedError as error:
        raise pytest.UsageError(f"{option}: {error.message}") from None


def accelerator(accel: Accel) -> Literal["kvm", "tcg"]:
    """What runs guest code in this session."""
    return "tcg" if accel == "tcg" else _chosen(accel, find_binary(), default_cache_dir())


@functools.lru_cache(maxsize=4)
def _chosen(accel: Accel, binary: Path, cache_dir: Path) -> Literal["kvm", "tcg"]:
    """Read once: each test asks, and waits for the answer."""
    return "kvm" if _ask(accel, binary, cache_dir).accelerator.name == "kvm" else "tcg"
