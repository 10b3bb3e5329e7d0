from __future__ import annotations

import dataclasses
import queue
import time
from collections.abc import Callable
from typing import Any

import pytest

from pytest_embedvm import constants, libvirt
from pytest_embedvm.api import event_loop
from pytest_embedvm.api.events import ARGUMENTS, arguments_of
from pytest_embedvm.driver import events
from tests.api.test_connect import failure
from tests.fakes.driver import FakeDriver

DEADLINE_S = 10

LIFECYCLE = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
STARTED = (libvirt.VIR_DOMAIN_EVENT_STARTED, libvirt.VIR_DOMAIN_EVENT_STARTED_BOOTED)
SUSPENDED = (libvirt.VIR_DOMAIN_EVENT_SUSPENDED, libvirt.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED)
STOPPED = (libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)


class Calls(queue.SimpleQueue[tuple[Any, ...]]):
    """A callback that remembers how it was called."""

    def __call__(self, *arguments: Any) -> None:
        self.put(arguments)

    def next(self) -> tuple[Any, ...]:
        return self.get(timeout=DEADLINE_S)


def test_lifecycle_events_in_order(conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(calls, "opaque")
    domain = conn.createXML("a")
    domain.suspend()
    domain.destroy()
    for expected in (STARTED, SUSPENDED, STOPPED):
        connection, subject, event, detail, opaque = calls.next()
        assert connection is conn
        assert (subject.name(), subject.UUID()) == ("a", domain.UUID())
        assert ((event, detail), opaque) == (expected, "opaque")


def test_a_lifecycle_event_has_the_name_of_its_moment(conn: libvirt.virConnect, driver: FakeDriver) -> None:
    calls = Calls()
    conn.domainEventRegister(calls, None)
    conn.defineXML("a")
    assert calls.next()[1].name() == "a"
    detail = libvirt.VIR_DOMAIN_EVENT_UNDEFINED_RENAMED
    event = events.Lifecycle(constants.DomainEventType.UNDEFINED, detail, "old")
    driver.events.emit(driver.all[0], event)  # type: ignore[arg-type]
    assert calls.next()[1].name() == "old"


def test_a_callback_may_call_the_api(conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(lambda c, d, *_: calls(c.numOfDomains(), d.info()[0]), None)
    conn.createXML("a")
    assert calls.next() == (1, libvirt.VIR_DOMAIN_RUNNING)


def test_registering_again_changes_the_opaque(conn: libvirt.virConnect) -> None:
    calls = Calls()
    conn.domainEventRegister(calls, 1)
    conn.domainEventRegister(calls, 2)
    conn.createXML("a").suspend()
    assert [calls.next()[2:], calls.next()[2:]] == [(*STARTED, 2), (*SUSPENDED, 2)]


def test_deregister(conn: libvirt.virConnect) -> None:
    calls, others = Calls(), Calls()
    conn.domainEventDeregister(calls)  # never registered: nothing to do
    conn.domainEventRegister(calls, None)
    conn.domainEventRegister(others, None)
    conn.domainEventDeregister(calls)
    conn.createXML("a")
    others.next()
    assert calls.empty()


def test_events_of_one_domain(conn: libvirt.virConnect) -> None:
    one, other, calls = conn.createXML("a"), conn.createXML("b"), Calls()
    number = conn.domainEventRegisterAny(one, LIFECYCLE, calls, None)
    other.suspend()
    one.destroy()
    assert calls.next()[2:4] == STOPPED
    assert conn.domainEventDeregisterAny(number) is None


def test_a_domain_that_is_gone_has_no_events(conn: libvirt.virConnect) -> None:
    domain = conn.createXML("a")
    domain.destroy()
    assert failure(conn.domainEventRegisterAny, domain, LIFECYCLE, print, None)[0] == libvirt.VIR_ERR_NO_DOMAIN


def test_a_callback_may_deregister_itself(conn: libvirt.virConnect) -> None:
    calls, others = Calls(), Calls()

    def once(*arguments: Any) -> None:
        conn.domainEventDeregisterAny(number)
        calls(*arguments)

    number = conn.domainEventRegisterAny(None, LIFECYCLE, once, None)
    conn.domainEventRegisterAny(None, LIFECYCLE, others, None)
    conn.createXML("a").suspend()
    others.next()
    others.next()
    assert calls.next()[2:4] == STARTED
    assert calls.empty()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (-1, "eventID in virConnectDomainEventRegisterAny must be zero or greater"),
        (99, "eventID in virConnectDomainEventRegisterAny must be less than 27"),
    ],
)
def test_an_unknown_event_is_refused(conn: libvirt.virConnect, number: int, message: str) -> None:
    assert failure(conn.domainEventRegisterAny, None, number, print, None)[2] == message


def test_every_event_of_libvirts_can_be_registered_for(conn: libvirt.virConnect) -> None:
    numbers = [conn.domainEventRegisterAny(None, kind, print, None) for kind in constants.DomainEventID]
    for number in numbers:
        conn.domainEventDeregisterAny(number)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (77, "invalid argument: could not find event callback 77 for deletion"),
        (-1, "callbackID in virConnectDomainEventDeregisterAny must be zero or greater"),
    ],
)
def test_an_unknown_callback_is_refused(conn: libvirt.virConnect, number: int, message: str) -> None:
    found = failure(conn.domainEventDeregisterAny, number)
    assert (found[0], found[2]) == (libvirt.VIR_ERR_INVALID_ARG, message)


def test_closing_takes_the_callbacks_away(conn: libvirt.virConnect, driver: FakeDriver) -> None:
    conn.domainEventRegister(print, None)
    numbers = set(conn._session.callbacks)
    conn.close()
    assert len(numbers) == 1
    assert [driver.events.deregister(number) for number in numbers] == [False]


class Values:
    """An event whose every field is its own name."""

    def __getattr__(self, name: str) -> str:
        return name


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("LIFECYCLE", ("event", "detail")),
        ("REBOOT", ()),
        ("RTC_CHANGE", ("offset",)),
        ("WATCHDOG", ("action",)),
        ("IO_ERROR", ("source", "alias", "action")),
        ("IO_ERROR_REASON", ("source", "alias", "action", "reason")),
        ("TRAY_CHANGE", ("alias", "reason")),
        ("PMWAKEUP", (0,)),
        ("PMSUSPEND", (0,)),
        ("PMSUSPEND_DISK", (0,)),
        ("BALLOON_CHANGE", ("actual",)),
        ("DEVICE_REMOVED", ("alias",)),
        ("AGENT_LIFECYCLE", ("state", "reason")),
        ("MIGRATION_ITERATION", ("iteration",)),
        ("JOB_COMPLETED", ("stats",)),
        ("METADATA_CHANGE", ("kind", "uri")),
    ],
)
def test_the_arguments_of_each_kind(kind: str, arguments: tuple[object, ...]) -> None:
    row = ARGUMENTS[constants.DomainEventID[kind]]
    assert row(Values()) == arguments  # type: ignore[arg-type]


def subclasses(cls: type) -> list[type]:
    return [s for c in cls.__subclasses__() for s in (c, *subclasses(c))]


@pytest.mark.parametrize(
    "event", [e for e in subclasses(events.Event) if e.event_id is not None], ids=lambda e: e.__name__
)
def test_every_event_of_the_drivers_has_a_row_that_fits(event: type[events.Event]) -> None:
    values = {field.name: 1 for field in dataclasses.fields(event)}
    assert isinstance(arguments_of(event.event_id)(event(**values)), tuple)


def test_the_default_loop_returns_when_an_event_was_delivered(
    conn: libvirt.virConnect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert libvirt.virEventRegisterDefaultImpl() == 0
    monkeypatch.setattr(event_loop, "ROUND_S", DEADLINE_S)
    calls = Calls()
    conn.domainEventRegister(calls, None)
    conn.createXML("a")
    before = time.monotonic()
    while calls.empty():
        assert libvirt.virEventRunDefaultImpl() == 0
        assert time.monotonic() - before < DEADLINE_S, "no event woke the loop"


def test_the_default_loop_does_not_wait_for_what_came_between_two_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A round takes longer than the test may: this one finds that something came before it began."""
    monkeypatch.setattr(event_loop, "ROUND_S", 100 * DEADLINE_S)
    event_loop.event_delivered()
    assert libvirt.virEventRunDefaultImpl() == 0


def test_a_callback_that_cannot_be_found_again_is_the_caller_s_mistake(conn: libvirt.virConnect) -> None:
    class Unhashable(list[int]):
        def __call__(self, *_: object) -> None: ...

    with pytest.raises(TypeError, match="unhashable"):
        conn.domainEventRegister(Unhashable(), None)
    assert conn._session.callbacks == {}


def test_the_default_loop_returns_without_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loop, "_told", event_loop._count)
    monkeypatch.setattr(event_loop, "ROUND_S", 0.01)
    assert libvirt.virEventRunDefaultImpl() == 0


def test_a_loop_of_the_callers_own_is_accepted() -> None:
    functions: list[Callable[..., Any]] = [print] * 6
    libvirt.virEventRegisterImpl(*functions)
    assert libvirt.virInitialize() == 0
