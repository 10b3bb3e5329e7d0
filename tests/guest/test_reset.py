"""A VM that goes on with another run of its domain."""

from __future__ import annotations

import json
import threading
from typing import cast

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM, GuestStopped
from tests.fakes.guest import FakeDomain

DESTROYED = libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED
PANIC = b"---[ end Kernel panic - not syncing: why ]---\r\n"


def next_run(domain: FakeDomain) -> FakeDomain:
    """Another run of DOMAIN, which ends."""
    again = FakeDomain(agent=lambda _command: json.dumps({"return": {}}))
    again.connection = domain.connection
    domain.stop(DESTROYED)
    domain.stream.fed.put(b"")
    return again


def follow(vm: VM, run: FakeDomain, note: str = "reset") -> None:
    vm._follow(cast("libvirt.virDomain", run), note)


def test_the_transcript_goes_on(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"first\r\nhalf a li")
    fake.console.wait_for("half")
    run = next_run(domain)
    follow(fake, run)
    run.stream.fed.put(b"second\r\n")
    assert fake.console.wait_for("^second$")
    assert fake.console.text == "first\nhalf a li\n--- embedvm: reset ---\nsecond\n"
    fake.console.sendline("typed")
    assert run.stream.sent == b"typed\n"


def test_what_the_last_run_said_is_found_from_the_start_only(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"ready\r\nready\r\n")
    fake.console.wait_for("ready\nready")
    run = next_run(domain)
    follow(fake, run)
    run.stream.fed.put(b"ready: 2\r\n")
    assert fake.console.wait_for("ready(: 2)?")[1] == ": 2"
    assert fake.console.wait_for("ready(: 2)?", from_start=True)[1] is None


@pytest.mark.parametrize("said", [b"", PANIC])
def test_how_the_last_run_ended_is_forgotten(fake: VM, domain: FakeDomain, said: bytes) -> None:
    domain.stream.fed.put(said + b"end")
    fake.console.wait_for("end")
    run = next_run(domain)
    with pytest.raises(GuestStopped, match=r"dead|was destroyed"):
        fake.console.wait_for("more")
    follow(fake, run)
    assert fake.is_running
    run.stream.fed.put(b"login: ")
    assert fake.console.wait_for("login")
    run.stop(DESTROYED)
    with pytest.raises(GuestStopped, match="was destroyed"):
        fake.console.wait_for("more")


def test_events_of_the_last_run_that_come_late_are_not_this_ones(fake: VM, domain: FakeDomain) -> None:
    late = tuple(domain.connection.callbacks.values())
    run = next_run(domain)
    follow(fake, run)
    for kind, callback in late:
        rest = (libvirt.VIR_DOMAIN_EVENT_STOPPED, DESTROYED) if kind == libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE else ()
        callback(domain.connection, domain, *rest, None)
    run.stream.fed.put(b"here\r\n")
    assert fake.console.wait_for("here")
    fake.wait_until(lambda: True)
    assert len(domain.connection.callbacks) == len(late)


def test_who_waits_for_the_last_run_is_told(fake: VM, domain: FakeDomain) -> None:
    asked, answer = threading.Event(), threading.Event()

    def silent(_command: str) -> str:
        asked.set()
        answer.wait(60)
        return json.dumps({"return": {}})

    domain.agent = silent
    errors: list[BaseException] = []

    def run_something() -> None:
        try:
            fake.run("true")
        except GuestStopped as error:
            errors.append(error)

    waiting = threading.Thread(target=run_something)
    waiting.start()
    assert asked.wait(60)
    again = FakeDomain()
    again.connection = domain.connection
    threading.Timer(0.01, domain.stream.fed.put, (b"",)).start()
    follow(fake, again)
    waiting.join(60)
    answer.set()
    assert "was reset" in str(errors[0])


def test_the_last_reader_ends(fake: VM, domain: FakeDomain) -> None:
    before = [thread for thread in threading.enumerate() if thread.name == "embedvm-console"]
    for number in range(3):
        run = next_run(domain)
        follow(fake, run, f"run {number}")
        domain = run
    assert len([thread for thread in threading.enumerate() if thread.name == "embedvm-console"]) <= len(before)
    assert fake.console.text.splitlines() == [f"--- embedvm: run {number} ---" for number in range(3)]
