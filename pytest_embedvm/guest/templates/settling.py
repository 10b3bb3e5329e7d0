"""A guest at rest: what a template is about to do when it is stopped, each of its clones does first of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_embedvm.guest.errors import CommandFailed

if TYPE_CHECKING:
    from pytest_embedvm.guest.vm import VM

#: How long a guest may take to come to rest; one that is never idle is stopped as it is.
SETTLE_TIMEOUT_S: Final = 15.0
#: Longer than that no answer of the shell that watches it is awaited.
_ANSWER_TIMEOUT_S: Final = 60.0

#: Two seconds in a row of which it idled through three quarters: looking takes a part itself, more on a busy host. No
#: event tells that; its shell looks, and sleeps meanwhile. linux: proc(5): the first line of /proc/stat counts
#: hundredths of a second.
_SCRIPT: Final = """
read -r up _ </proc/uptime || exit 0
end=$((${up%.*} + $0)) calm=0
look() { read -r _ user nice system idle _ </proc/stat && busy=$((user + nice + system)); }
look
while [ $calm -lt 2 ]; do
    was_busy=$busy was_idle=$idle
    sleep 1 || exit 0
    look
    calm=$((calm + 1))
    [ $((idle - was_idle)) -ge $(((busy - was_busy) * 3)) ] || calm=0
    read -r up _ </proc/uptime
    [ ${up%.*} -lt $end ] || exit 0
done
"""


def settle(vm: VM) -> None:
    """Return once the guest of VM has nothing more to do, or after 15 s of its own.

    :raise GuestError: when it does not answer.
    """
    try:
        vm.run(("/bin/sh", "-c", _SCRIPT, f"{SETTLE_TIMEOUT_S:.0f}"), timeout=_ANSWER_TIMEOUT_S)
    except CommandFailed:  # it cannot tell: it is no Linux, or has no /proc
        return
