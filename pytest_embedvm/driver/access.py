"""Who may call what: a policy with a name, asked at every call."""

from __future__ import annotations

from typing import Final, Protocol

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import AccessDenied, InternalError

#: The policy of an embedded driver (libvirt: virConnectOpenInternal): the application is the only caller there is.
EMBED: Final = "none"


class Policy(Protocol):
    """What libvirt calls an access driver."""

    name: str

    def allows(self, function: str, *, writes: bool) -> bool:
        """Whether FUNCTION, libvirt's C name of the call, may be called; WRITES: it changes or reveals something.

        It is asked on the caller's thread, before anything else is done; it must not block.
        """


class Everything:
    """`none`: no access control (libvirt: virAccessDriverNop)."""

    name = "none"

    def allows(self, function: str, *, writes: bool) -> bool:
        return True


_policies: Final[dict[str, Policy]] = {}


def register(policy: Policy) -> None:
    """Let POLICY be found by its name, instead of one that had it before."""
    _policies[policy.name] = policy


def find(name: str) -> Policy:
    """The policy called NAME.

    :raise InternalError: when none of this name is registered.
    """
    if name not in _policies:
        # libvirt: virAccessManagerGetDefault
        there = ", ".join(sorted(_policies)) or "nothing"
        raise InternalError(
            f"No access manager registered with the name '{name}'; registered: {there}", origin=ErrorDomain.ACCESS
        )
    return _policies[name]


def require(policy: Policy, function: str, *, writes: bool) -> None:
    """Check that POLICY lets FUNCTION be called.

    :raise AccessDenied: when it does not; naming both.
    """
    if not policy.allows(function, writes=writes):
        # libvirt: virAccessManagerSanitizeError
        raise AccessDenied(f"'{policy.name}' denied access to {function}")


register(Everything())
