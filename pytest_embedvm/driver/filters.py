"""Which machines `listAllDomains` is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pytest_embedvm.constants import ConnectListAllDomainsFlags as List
from pytest_embedvm.constants import DomainState
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.saving.save import has_managed


def matches(machine: Machine, flags: int) -> bool:
    """Whether MACHINE meets one flag of each group that FLAGS has something of."""
    state = machine.status.state
    managed = bool(flags & (List.MANAGEDSAVE | List.NO_MANAGEDSAVE)) and has_managed(machine)
    other = state not in (DomainState.RUNNING, DomainState.PAUSED, DomainState.SHUTOFF)
    # libvirt: virDomainObjMatchFilter; nothing autostarts, and there are no snapshots, checkpoints
    groups = (
        {List.ACTIVE: machine.active, List.INACTIVE: not machine.active},
        {List.PERSISTENT: machine.persistent, List.TRANSIENT: not machine.persistent},
        {
            List.RUNNING: state is DomainState.RUNNING,
            List.PAUSED: state is DomainState.PAUSED,
            List.SHUTOFF: state is DomainState.SHUTOFF,
            List.OTHER: other,
        },
        {List.MANAGEDSAVE: managed, List.NO_MANAGEDSAVE: not managed},
        {List.AUTOSTART: False, List.NO_AUTOSTART: True},
        {List.HAS_SNAPSHOT: False, List.NO_SNAPSHOT: True},
        {List.HAS_CHECKPOINT: False, List.NO_CHECKPOINT: True},
    )
    return meets(flags, groups)


def meets(flags: int, groups: Iterable[Mapping[Any, bool]]) -> bool:
    """Whether something holds that FLAGS ask for, of each of GROUPS that they ask for something of."""
    for group in groups:
        asked = [true for flag, true in group.items() if flags & flag]
        if asked and not any(asked):
            return False
    return True
