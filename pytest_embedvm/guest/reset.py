"""Going back: to where a clone's template was stopped, or to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pytest_embedvm import embed, libvirt
from pytest_embedvm.guest import renewal
from pytest_embedvm.guest.wait import Deadline

if TYPE_CHECKING:
    from pytest_embedvm.guest.vm import VM

#: pytest shows the line that called, not these.
__tracebackhide__ = True

#: A tenth of a second is usual; many may do it at once.
TIMEOUT_S: Final = 60.0

#: What a checkpoint is called unless somebody wants several.
CHECKPOINT: Final = "checkpoint"


def reset_to_template(vm: VM, timeout: float) -> None:
    """`VM.reset_to_template`."""
    deadline = Deadline(timeout)
    _go_back(vm, embed.reset_to_template, "reset to its template")
    renewal.renew(vm, timeout=deadline.remaining)


def checkpoint(vm: VM, name: str) -> None:
    """`VM.checkpoint`."""
    embed.checkpoint(vm.domain, name)
    vm.console.note(f"checkpoint {name!r}")


def restore(vm: VM, name: str, timeout: float) -> None:
    """`VM.restore`."""
    deadline = Deadline(timeout)
    _go_back(vm, lambda domain, flags: embed.restore(domain, name, flags), f"back at checkpoint {name!r}")
    renewal.freshen(vm, timeout=deadline.remaining)


def _go_back(vm: VM, start: Callable[[libvirt.virDomain, int], libvirt.virDomain], note: str) -> None:
    """Have the domain end, and start anew; VM listens before its CPUs run."""
    vm._follow(start(vm.domain, libvirt.VIR_DOMAIN_START_PAUSED), note)
    vm.domain.resume()
