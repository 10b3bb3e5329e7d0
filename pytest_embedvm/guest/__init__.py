"""The Pythonic layer: a virtual machine as a test wants it, and the built-in guest."""

from pytest_embedvm.guest.console import Console
from pytest_embedvm.guest.definition import domain_xml
from pytest_embedvm.guest.errors import (
    AgentAbsent,
    AgentError,
    CannotClone,
    CannotRestore,
    CommandFailed,
    CommandTimeout,
    ForeignProcess,
    GuestError,
    GuestFileError,
    GuestStopped,
    NoCard,
    NoProgram,
    OutputTruncated,
    WaitTimeout,
)
from pytest_embedvm.guest.network import Network, Undo
from pytest_embedvm.guest.shell import RunResult
from pytest_embedvm.guest.templates.origin import Origin
from pytest_embedvm.guest.vm import VM

__all__ = [
    "VM",
    "AgentAbsent",
    "AgentError",
    "CannotClone",
    "CannotRestore",
    "CommandFailed",
    "CommandTimeout",
    "Console",
    "ForeignProcess",
    "GuestError",
    "GuestFileError",
    "GuestStopped",
    "Network",
    "NoCard",
    "NoProgram",
    "Origin",
    "OutputTruncated",
    "RunResult",
    "Undo",
    "WaitTimeout",
    "domain_xml",
]
