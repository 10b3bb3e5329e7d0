from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from types import SimpleNamespace
from typing import cast

import pytest

from pytest_embedvm.constants import (
    DomainEventID,
    DomainEventStoppedDetailType,
    DomainEventType,
    NetworkEventID,
    NetworkEventLifecycleType,
)
from pytest_embedvm.driver import hub as hubs
from pytest_embedvm.driver.events import Event, Lifecycle, Reboot, RtcChange
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.network.events import NetworkLifecycle
from pytest_embedvm.logs import HOST


def machine(name: str, number: int) -> Machine:
    return cast("Machine", SimpleNamespace(name=name, uuid=uuid.UUID(int=number)))


ONE, OTHER = machine("one", 1), machine("other", 2)
STOPPED = Lifecycle(DomainEventType.STOPPED, DomainEventStoppedDetailType.FAILED, "a")


def delivered(hub: EventHub) -> None:
    """Return once everything that was emitted has been delivered."""
    fence = threading.Event()
    number = hub.register(DomainEventID.TUNABLE, None, lambda *_: fence.set())

    class Fence(Event):
        event_id = DomainEventID.TUNABLE

    hub.emit(ONE, Fence())
    assert fence.wait(10)
    hub.deregister(number)


#: Of roots that other tests have open in this process.
others: set[threading.Thread] = set()


def delivery_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "embedvm-events" and t not in others]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hubs of this module share no thread with those of roots that are open elsewhere."""
    monkeypatch.setattr(hubs, "_current", None)
    others.clear()
    others.update(delivery_threads())


@pytest.fixture
def hub() -> object:
    hub = EventHub(HOST)
    yield hub
    threads = delivery_threads()
    hub.close()
    for thread in threads:
        thread.join(10)
    assert not delivery_threads()


def test_each_gets_its_kind_and_its_machine_in_order(hub: EventHub) -> None:
    everything: list[object] = []
    of_one: list[object] = []
    hub.register(DomainEventID.RTC_CHANGE, None, lambda machine, event: everything.append((machine, event)))
    hub.register(DomainEventID.RTC_CHANGE, ONE, lambda *told: of_one.append(told[1]))
    for offset in range(100):
        hub.emit(ONE, RtcChange(offset))
        hub.emit(OTHER, RtcChange(-offset))
        hub.emit(ONE, Reboot())
    delivered(hub)
    assert of_one == [RtcChange(n) for n in range(100)]
    assert everything == [pair for n in range(100) for pair in ((ONE, RtcChange(n)), (OTHER, RtcChange(-n)))]


def test_a_machine_that_is_made_anew_is_the_same(hub: EventHub) -> None:
    told: list[object] = []
    hub.register(DomainEventID.RTC_CHANGE, ONE, lambda machine, _event: told.append(machine.name))
    hub.emit(machine("one again", 1), RtcChange(0))
    delivered(hub)
    assert told == ["one again"]


def test_families_that_count_alike_are_told_apart(hub: EventHub) -> None:
    seen: list[Event] = []
    network, stopped = SimpleNamespace(name="one"), NetworkLifecycle(NetworkEventLifecycleType.STOPPED)
    hub.register(NetworkEventID.EVENT_ID_LIFECYCLE, None, lambda _, event: seen.append(event))
    hub.emit(ONE, STOPPED)
    hub.emit(network, stopped)
    delivered(hub)
    assert seen == [stopped]


def test_what_waits_is_a_subjects_own(hub: EventHub) -> None:
    class Network:
        name = "one"

    hub.hold()
    hub.emit(ONE, STOPPED)
    hub.emit(Network(), NetworkLifecycle(NetworkEventLifecycleType.STOPPED))
    assert hub.undelivered(ONE) == [STOPPED]
    hub.release()


def test_a_callback_that_raises_is_logged_and_the_next_runs(hub: EventHub, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Event] = []

    def bad(machine: Machine, event: Event) -> None:
        raise ValueError("mine")

    hub.register(DomainEventID.LIFECYCLE, None, bad)
    hub.register(DomainEventID.LIFECYCLE, None, lambda *told: seen.append(told[1]))
    with caplog.at_level(logging.ERROR):
        hub.emit(ONE, STOPPED)
        delivered(hub)
    assert seen == [STOPPED]
    assert "ValueError: mine" in caplog.text
    assert caplog.records[0].getMessage().startswith("[host/one] callback ")


def test_what_was_before_a_registration_is_not_heard(hub: EventHub) -> None:
    entered, go, heard = threading.Event(), threading.Event(), []

    def slow(machine: Machine, event: Event) -> None:
        entered.set()
        go.wait(10)

    hub.register(DomainEventID.RTC_CHANGE, None, slow)
    hub.emit(ONE, RtcChange(1))
    hub.emit(ONE, RtcChange(2))
    assert entered.wait(10)
    hub.register(DomainEventID.RTC_CHANGE, None, lambda *told: heard.append(told[1]))
    hub.emit(ONE, RtcChange(3))
    go.set()
    delivered(hub)
    assert heard == [RtcChange(3)]


def test_deregisters_inside_a_callback(hub: EventHub) -> None:
    calls: list[str] = []

    def once(machine: Machine, event: Event) -> None:
        calls.append("once")
        assert hub.deregister(first)
        assert hub.deregister(second)

    first = hub.register(DomainEventID.LIFECYCLE, None, once)
    second = hub.register(DomainEventID.LIFECYCLE, None, lambda *_: calls.append("never"))
    hub.emit(ONE, STOPPED)
    hub.emit(ONE, STOPPED)
    delivered(hub)
    assert calls == ["once"]
    assert not hub.deregister(first)


def test_runs_on_a_thread_of_its_own_that_all_hubs_share(hub: EventHub) -> None:
    names: set[int] = set()
    other = EventHub(HOST)
    for each in (hub, other):
        each.register(DomainEventID.REBOOT, None, lambda *_: names.add(threading.get_ident()))
        each.emit(ONE, Reboot())
        delivered(each)
    assert len(names) == 1
    assert threading.get_ident() not in names
    other.close()
    assert len(delivery_threads()) == 1


def test_nothing_is_delivered_after_close(hub: EventHub) -> None:
    seen: list[Event] = []
    closing = EventHub(HOST)
    closing.register(DomainEventID.REBOOT, None, lambda *told: seen.append(told[1]))
    closing.close()
    closing.emit(ONE, Reboot())
    delivered(hub)
    assert seen == []


def test_no_thread_without_callbacks_and_none_left_by_thousands() -> None:
    for _ in range(1000):
        quiet = EventHub(HOST)
        quiet.emit(ONE, Reboot())
        quiet.close()
    assert not delivery_threads()
    for _ in range(100):
        hub = EventHub(HOST)
        hub.register(DomainEventID.REBOOT, None, print)
        hub.close()
    for thread in delivery_threads():
        thread.join(10)
    assert not delivery_threads()


def test_what_is_held_is_told_to_those_who_register_before_the_release(hub: EventHub) -> None:
    told: list[Event] = []
    hub.hold()
    hub.emit(ONE, STOPPED)
    assert hub.undelivered(ONE) == [STOPPED]
    hub.register(DomainEventID.LIFECYCLE, None, lambda _, event: told.append(event))
    hub.release()
    hub.release()
    delivered(hub)
    assert told == [STOPPED]
    assert hub.undelivered(ONE) == []


def test_what_nobody_wants_is_not_pending(hub: EventHub) -> None:
    hub.register(DomainEventID.LIFECYCLE, None, lambda *_: None)
    hub.emit(ONE, Reboot())
    assert hub.undelivered(ONE) == []
    dropped: list[Machine] = []
    hub.on_delivered = dropped.append
    hub.hold()
    hub.emit(OTHER, Reboot())
    hub.release()
    assert dropped == [OTHER]
    assert hub.undelivered(OTHER) == []


class Slow:
    """A callback that waits until it may go on."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.entered, self.go = threading.Event(), threading.Event()

    def __call__(self, _machine: Machine, event: Event) -> None:
        self.told.append(event)
        self.entered.set()
        assert self.go.wait(10)


def test_a_drain_waits_for_the_callbacks_and_not_for_ever(hub: EventHub) -> None:
    slow = Slow()
    assert asyncio.run(hub.drain(10)), "nobody is registered"
    hub.register(DomainEventID.LIFECYCLE, None, slow)
    hub.emit(ONE, STOPPED)
    assert not asyncio.run(hub.drain(0.01))
    slow.go.set()
    assert asyncio.run(hub.drain(10))
    assert hub.undelivered(ONE) == []


def test_what_waits_when_it_is_stopped_stays_undelivered(hub: EventHub) -> None:
    slow = Slow()
    hub.register(DomainEventID.LIFECYCLE, None, slow)
    hub.register(DomainEventID.REBOOT, None, slow)
    hub.emit(ONE, STOPPED)
    assert slow.entered.wait(10)
    hub.emit(ONE, Reboot())
    assert hub.undelivered(ONE) == [STOPPED, Reboot()]
    hub.stop()
    slow.go.set()
    assert asyncio.run(hub.drain(10))
    assert slow.told == [STOPPED]
    assert hub.undelivered(ONE) == [Reboot()]


def test_a_callback_knows_that_it_is_one(hub: EventHub) -> None:
    here: list[bool] = []
    hub.register(DomainEventID.LIFECYCLE, None, lambda *_: here.append(hub.delivers_here()))
    hub.emit(ONE, STOPPED)
    delivered(hub)
    assert (here, hub.delivers_here()) == ([True], False)
