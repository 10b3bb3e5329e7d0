"""Waits end when they can, when they must, and as soon as they may not hope any more."""

from __future__ import annotations

import itertools
import json
import threading

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.error import report
from pytest_embedvm.errors import AgentUnresponsive, ArgumentUnsupported, OperationInvalid
from pytest_embedvm.guest import VM, AgentError, GuestStopped, WaitTimeout
from tests.fakes.guest import FakeDomain, absent

CRASHED = libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED
SHUTDOWN = libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN
PANIC = b"---[ end Kernel panic - not syncing: why ]---\r\n"


def answer(_command: str) -> str:
    return json.dumps({"return": {}})


def test_a_condition_is_called_until_it_is_true(fake: VM) -> None:
    numbers = itertools.count()
    assert fake.wait_until(lambda: next(numbers) // 5) == 1


def test_a_condition_that_stays_false_is_named_with_its_last_value(fake: VM) -> None:
    def lights() -> list[int]:
        return []

    with pytest.raises(WaitTimeout, match=r"lights .its last value: \[\]. did not come within 0.02 s"):
        fake.wait_until(lights, 0.02)
    with pytest.raises(WaitTimeout, match=r"green light .its last value"):
        fake.wait_until(lights, 0, message="green light")


def test_a_condition_sees_the_end_before_it_is_given_up(fake: VM, domain: FakeDomain) -> None:
    threading.Timer(0.02, domain.stop, (SHUTDOWN,)).start()
    assert fake.wait_until(lambda: not fake.is_running)
    with pytest.raises(GuestStopped, match="the guest powered off while a light was awaited"):
        fake.wait_until(lambda: False, message="a light")


def test_ready_once_the_agent_answers(fake: VM, domain: FakeDomain) -> None:
    answers = iter([absent, absent, answer])
    domain.agent = lambda command: next(answers)(command)  # noqa: PLW0108 - each time the next one
    fake.wait_ready()
    assert domain.commands == ["guest-ping"] * 3


def test_not_ready_in_time(fake: VM) -> None:
    with pytest.raises(
        WaitTimeout, match=r"an answer of the guest agent did not come within 0.01 s; the guest is runn"
    ):
        fake.wait_ready(0.01)


def test_a_domain_without_agent_is_never_ready(fake: VM, domain: FakeDomain) -> None:
    def refuse(_command: str) -> str:
        raise report(ArgumentUnsupported("QEMU guest agent is not configured"))

    domain.agent = refuse
    with pytest.raises(AgentError, match="guest-ping: argument unsupported: QEMU guest agent is not configured"):
        fake.wait_ready()


class Silent:
    """An agent that takes a command and does not answer."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.end = threading.Event()

    def __call__(self, _command: str) -> str:
        self.asked.set()
        self.end.wait(60)
        raise report(AgentUnresponsive("its channel closed"))


@pytest.fixture
def silent(domain: FakeDomain) -> Silent:
    domain.agent = silent = Silent()
    return silent


def test_a_panic_is_noticed_while_the_agent_is_silent(fake: VM, domain: FakeDomain, silent: Silent) -> None:
    threading.Thread(target=lambda: silent.asked.wait(60) and domain.stream.fed.put(PANIC)).start()
    with pytest.raises(
        GuestStopped, match=r"is dead .Kernel panic - not syncing: why. while the guest agent's answer to"
    ):
        fake.run("true")
    silent.end.set()


def test_a_reset_is_noticed_while_the_agent_is_silent(fake: VM, domain: FakeDomain, silent: Silent) -> None:
    threading.Thread(target=lambda: silent.asked.wait(60) and domain.reset()).start()
    with pytest.raises(GuestStopped, match="was reset while"):
        fake.run("true")
    silent.end.set()


def test_a_call_that_fails_before_its_reason_is_told(fake: VM, domain: FakeDomain, silent: Silent) -> None:
    domain.on = False
    silent.end.set()
    threading.Timer(0.05, domain.stop, (CRASHED,)).start()
    with pytest.raises(GuestStopped, match="the guest crashed while"):
        fake.run("true")


def test_an_agent_that_is_not_there(fake: VM) -> None:
    with pytest.raises(
        AgentError, match="guest-exec: Guest agent is not responding: QEMU guest agent is not connected"
    ):
        fake.run("true", timeout=0.02)


def test_an_agent_that_goes_before_its_guest(fake: VM, domain: FakeDomain) -> None:
    def leave(command: str) -> str:
        threading.Timer(0.05, domain.stop, (SHUTDOWN,)).start()
        return absent(command)

    domain.agent = leave
    with pytest.raises(GuestStopped, match="the guest powered off while the guest agent's answer to guest-exec was"):
        fake.run("true")


def test_a_power_off_is_waited_for(fake: VM, domain: FakeDomain) -> None:
    domain.obey = lambda _: threading.Timer(0.02, domain.stop, (SHUTDOWN,)).start()
    fake.shutdown()
    assert not fake.is_running
    fake.shutdown()
    assert domain.orders == ["shutdown"]


def test_a_crash_is_no_power_off(fake: VM, domain: FakeDomain) -> None:
    domain.obey = lambda _: domain.stop(CRASHED)
    with pytest.raises(GuestStopped, match="the guest crashed while its power-off was awaited"):
        fake.shutdown()


def test_a_guest_that_does_not_power_off(fake: VM) -> None:
    with pytest.raises(WaitTimeout, match=r"its power-off did not come within 0.01 s"):
        fake.shutdown(0.01)


def test_a_guest_that_cannot_be_asked(fake: VM, domain: FakeDomain) -> None:
    def refuse(_order: str) -> None:
        raise report(OperationInvalid("domain is not running"))

    domain.obey = refuse
    with pytest.raises(libvirt.libvirtError, match="domain is not running"):
        fake.shutdown()


def test_a_reboot_ends_when_the_agent_answers(fake: VM, domain: FakeDomain) -> None:
    domain.agent = answer
    domain.obey = lambda _: threading.Timer(0.02, domain.reset).start()
    domain.stream.fed.put(PANIC.replace(b"end ", b""))
    fake.reboot()
    assert (domain.orders, domain.commands) == (["reboot"], ["guest-ping"])


def test_a_reset_after_a_panic_makes_hope_again(fake: VM, domain: FakeDomain) -> None:
    domain.emit(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_CRASHED, 0)
    with pytest.raises(
        GuestStopped, match="the guest panicked while the guest agent's answer to guest-ping was awaited"
    ):
        fake.wait_ready()
    domain.reset()
    domain.agent = answer
    fake.wait_ready()
