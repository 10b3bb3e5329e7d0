"""Waiting for a guest: with a deadline, and not for what cannot come any more."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Generic, TypeVar

from pytest_embedvm import libvirt
from pytest_embedvm.guest.errors import ForeignProcess, GuestStopped, WaitTimeout
from pytest_embedvm.guest.transcript import Transcript

#: pytest shows the line that called, not these.
__tracebackhide__ = True

T = TypeVar("T")

#: Between two looks at a condition: it may cost a command in the guest each time.
FIRST_PAUSE_S: Final = 0.001
LONGEST_PAUSE_S: Final = 0.1
PAUSE_GROWTH: Final = 1.5
#: Between QEMU's end, which a call may notice first, and the event that tells why it ended.
RESET_TIMEOUT_S: Final = 2.0
REASON_TIMEOUT_S: Final = 1.0

POWERED_OFF: Final = "powered off"
_STOPPED: Final[dict[int, str]] = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: POWERED_OFF,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "was destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "ended because QEMU failed",
}

_STATES: Final[dict[int, str]] = {
    libvirt.VIR_DOMAIN_RUNNING: "is running",
    libvirt.VIR_DOMAIN_PAUSED: "is paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "is shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "is off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "sleeps",
}


@contextlib.contextmanager
def if_connected() -> Iterator[None]:
    """The body ends something; where the connection was closed before, that has ended it."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_INVALID_CONN:
            raise


class Deadline:
    """A moment, SECONDS from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._moment = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds; 0 when it is over."""
        return max(0.0, self._moment - time.monotonic())


class Errand(Generic[T]):
    """A call that blocks, made on a thread of its own, so that its caller can wait for more than its result."""

    def __init__(self, call: Callable[[], T], changed: threading.Condition) -> None:
        self._call = call
        self._changed = changed
        self.done = False
        self.error: BaseException | None = None
        self._result: list[T] = []
        threading.Thread(target=self._run, name="embedvm-errand", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result.append(self._call())
        except BaseException as error:  # noqa: BLE001 - raised again by result(), on the thread that asked
            self.error = error
        with self._changed:
            self.done = True
            self._changed.notify_all()

    def result(self) -> T:
        """What the call returned; raises what it raised."""
        if self.error is not None:
            raise self.error
        return self._result[0]


class Watch:
    """What befalls a guest, told by its domain's events and its console. Everything that waits, waits here."""

    def __init__(self, domain: libvirt.virDomain, transcript: Transcript) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self.resets = 0
        self.stopped: str | None = None
        self._panicked = False
        self._run = 0
        self._domain = domain
        self._transcript = transcript
        self._connection = domain.connect()
        self._callbacks: list[int] = []
        self._listen()

    def _listen(self) -> None:
        register = self._connection.domainEventRegisterAny
        self._callbacks += [
            register(self._domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, partial(self._lifecycle, self._run), None),
            register(self._domain, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, partial(self._reset, self._run), None),
        ]

    def follow(self, domain: libvirt.virDomain) -> None:
        """Go on with DOMAIN, a new run of it; whoever waits for something of the last one is told that it was reset.

        What the last run's end was is forgotten, and so are events of it that are still on their way.
        """
        self.close()
        with self.changed:
            self._run += 1
            self._domain = domain
            self.stopped = None
            self._boots_anew()
        self._listen()

    @property
    def changed(self) -> threading.Condition:
        """Guards the transcript and what is known here; notified when either changes.

        :raise ForeignProcess: in a forked child, where nobody would ever notify it.
        """
        if self._pid != os.getpid():
            raise ForeignProcess(
                f"this VM belongs to process {self._pid}, this is process {os.getpid()}: "
                "a forked child must open a root of its own"
            )
        return self._changed

    def close(self) -> None:
        """Listen to the domain's events no more."""
        while self._callbacks:
            with if_connected():
                self._connection.domainEventDeregisterAny(self._callbacks.pop())

    def _lifecycle(
        self, run: int, _connection: object, _domain: object, event: int, detail: int, _opaque: object
    ) -> None:
        with self.changed:
            if run != self._run:
                return
            if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
                self.stopped = _STOPPED.get(detail, "ended")
            elif event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
                self._panicked = True
            self.changed.notify_all()

    def _reset(self, run: int, *_arguments: object) -> None:
        with self.changed:
            if run == self._run:
                self._boots_anew()

    def _boots_anew(self) -> None:
        self.resets += 1
        self._panicked = False
        self._transcript.booted()
        self._changed.notify_all()

    def state(self) -> str:
        """What the guest does, as the end of a sentence."""
        if self.stopped is not None:
            return self.stopped
        try:
            number, _reason = self._domain.state()
        except libvirt.libvirtError as error:
            return f"is not there: {error}"
        return _STATES.get(number, f"is in state {number}")

    @property
    def active(self) -> bool:
        """Whether the domain has a QEMU; a transient one that is gone has none."""
        try:
            return bool(self._domain.isActive())
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return False
            raise

    def _ending(self) -> bool:
        """Whether the domain has no QEMU any more, or one that only writes its images back."""
        try:
            return not self.active or self._domain.state()[0] == libvirt.VIR_DOMAIN_SHUTDOWN
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:  # gone between the two questions
                return True
            raise

    def dead(self) -> str | None:
        """Why the guest will not do anything any more; None while it may."""
        panic = self._transcript.panic()
        return self.stopped or (panic and f"is dead ({panic})") or ("panicked" if self._panicked else None)

    def timeout(self, awaited: str, seconds: float) -> WaitTimeout:
        return WaitTimeout(awaited, seconds, self.state(), self._transcript.text)

    def gone(self, awaited: str, reason: str) -> GuestStopped:
        return GuestStopped(awaited, reason, self._transcript.text)

    def until(self, awaited: str, look: Callable[[], T | None], deadline: Deadline) -> T:
        """What LOOK returns once that is not None. It is called whenever something happened, under the lock.

        :raise GuestStopped: as soon as the guest is dead and LOOK still returns None.
        :raise WaitTimeout: at the deadline.
        """
        with self.changed:
            while True:
                found = look()
                if found is not None:
                    return found
                reason = self.dead()
                if reason is not None:
                    raise self.gone(awaited, reason)
                left = deadline.remaining
                if not left:
                    raise self.timeout(awaited, deadline.seconds)
                self.changed.wait(left)

    def call(self, awaited: str, call: Callable[[], T], deadline: Deadline) -> T:
        """What CALL, which may block, returns; it goes on behind if this gives it up.

        :raise GuestStopped: as soon as the guest is dead or was reset.
        :raise WaitTimeout: at the deadline.
        """
        resets = self.resets
        errand = Errand(call, self.changed)

        def look() -> Errand[T] | None:
            if not errand.done and self.resets != resets:
                raise self.gone(awaited, "was reset")
            return errand if errand.done else None

        return self.until(awaited, look, deadline).result()

    def pause(self, awaited: str, seconds: float) -> None:
        """Let SECONDS pass.

        :raise GuestStopped: as soon as the guest is dead.
        """
        rest = Deadline(seconds)
        with self.changed:
            while rest.remaining:
                reason = self.dead()
                if reason is not None:
                    raise self.gone(awaited, reason)
                self.changed.wait(rest.remaining)

    def refuse_if_gone(self, awaited: str, resets: int, grace: float) -> None:
        """:raise GuestStopped: when the guest is dead or was reset since RESETS, or will be within GRACE seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.dead() is not None or self.resets != resets, grace)
            reason = self.dead() or ("was reset" if self.resets != resets else None)
        if reason is not None:
            raise self.gone(awaited, reason)

    def catch_up(self) -> None:
        """After a panic: whoever asks for an answer may have reset the guest; the event may be on its way."""
        with self.changed:
            if self.stopped is None:
                self.changed.wait_for(lambda: self.dead() is None or self.stopped is not None, RESET_TIMEOUT_S)

    def reason_of_end(self) -> str | None:
        """Why the guest ended, if it did; for a call that failed and may have noticed before the event came."""
        with self.changed:
            if self.dead() is None and self._ending():
                self.changed.wait_for(lambda: self.stopped is not None, REASON_TIMEOUT_S)
                return self.stopped or "ended"
            return self.dead()

    def poll(self, awaited: str, condition: Callable[[], T], deadline: Deadline) -> T:
        """What CONDITION returns once that is true; it is called at growing intervals, up to 0.1 s.

        :raise GuestStopped: as soon as the guest is dead and CONDITION is still false.
        :raise WaitTimeout: at the deadline; it shows CONDITION's last value.
        """
        pause = FIRST_PAUSE_S
        while True:
            reason = self.dead()
            value = condition()
            if value:
                return value
            if reason is not None:
                raise self.gone(awaited, reason)
            if not deadline.remaining:
                raise self.timeout(f"{awaited} (its last value: {value!r})", deadline.seconds)
            with self.changed:
                self.changed.wait_for(lambda: self.dead() is not None, min(pause, deadline.remaining))
            pause = min(pause * PAUSE_GROWTH, LONGEST_PAUSE_S)


def describe(condition: Callable[..., Any]) -> str:
    """CONDITION's name, for the sentence that it was not met."""
    return getattr(condition, "__qualname__", None) or repr(condition)
