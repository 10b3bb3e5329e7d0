from __future__ import annotations

import re
import threading
from typing import cast

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.guest import VM, GuestError, GuestStopped, WaitTimeout
from tests.fakes.guest import FakeDomain
from tests.guest.conftest import vm_of


def readers() -> int:
    """How many consoles this process reads; other tests' guests may live on."""
    return sum(thread.name == "embedvm-console" for thread in threading.enumerate())


def test_matches_in_a_row_are_found_in_a_row(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"one 1\r\none 2\r\n")
    assert fake.console.wait_for(r"^one (\d)$")[1] == "1"
    assert fake.console.wait_for(re.compile(r"one (\d)"))[1] == "2"
    assert fake.console.wait_for(r"one (\d)", from_start=True)[1] == "1"
    assert fake.console.wait_for("2")[0] == "2"


def test_a_clone_goes_on_with_what_its_template_had_shown(domain: FakeDomain) -> None:
    shown: list[str] = []
    history = b"Linux\r\nlogin: "
    with VM(cast("libvirt.virDomain", domain), show=lambda _, line: shown.append(line), history=history) as vm:
        domain.stream.fed.put(b"root\r\nwelcome\r\n")
        assert vm.console.wait_for("^Lin").start() == 0
        assert vm.console.wait_for("^wel")
        assert vm.console.text == "Linux\nlogin: root\nwelcome\n"
    assert shown == ["root", "welcome"]


def test_what_comes_later_ends_the_wait(fake: VM, domain: FakeDomain) -> None:
    threading.Timer(0.05, domain.stream.fed.put, (b"lo",)).start()
    threading.Timer(0.1, domain.stream.fed.put, (b"gin: ",)).start()
    assert fake.console.wait_for("login: $", timeout=30).end() == 7


def test_a_timeout_says_what_was_awaited_and_shows_the_last_lines(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"".join(b"line %d\r\n" % n for n in range(30)))
    fake.console.wait_for("line 29")
    with pytest.raises(WaitTimeout) as caught:
        fake.console.wait_for("never", timeout=0.01)
    assert isinstance(caught.value, TimeoutError)
    assert str(caught.value) == (
        "'never' on the console did not come within 0.01 s; the guest is running\nconsole, the end of it:\n"
        + "\n".join(f"    line {n}" for n in range(10, 30))
    )


def test_a_panic_ends_the_wait(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"---[ end Kernel panic - not syncing: why ]---\r\n")
    with pytest.raises(GuestStopped, match=r"the guest is dead .Kernel panic - not syncing: why. while 'login'"):
        fake.console.wait_for("login", timeout=60)
    assert fake.console.wait_for("panic")[0] == "panic"


def test_a_power_off_ends_the_wait(fake: VM, domain: FakeDomain) -> None:
    threading.Timer(0.05, domain.stop, (libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN,)).start()
    with pytest.raises(GuestStopped, match="the guest powered off while 'login' on the console was awaited"):
        fake.console.wait_for("login", timeout=60)


def test_the_end_of_the_console_ends_the_wait(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"")
    with pytest.raises(GuestStopped, match="closed its console"):
        fake.console.wait_for("login", timeout=60)
    with pytest.raises(GuestError, match="the console is closed"):
        fake.console.send("x")


def test_typing(fake: VM, domain: FakeDomain) -> None:
    fake.console.send("root")
    fake.console.sendline(b"\xff")
    fake.console.sendline()
    assert domain.stream.sent == b"root\xff\n\n"


def test_tail(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"1\r\n2\r\n3")
    fake.console.wait_for("3")
    assert fake.console.tail(2) == "2\n3"
    assert fake.console.data == b"1\r\n2\r\n3"


def test_closing_hangs_up_and_keeps_the_text(fake: VM, domain: FakeDomain) -> None:
    domain.stream.fed.put(b"x")
    fake.console.wait_for("x")
    before = readers()
    fake.close()
    fake.close()
    assert fake.console.text == "x"
    assert domain.connection.callbacks == {}
    assert readers() == before - 1


def test_a_domain_without_console() -> None:
    with vm_of(FakeDomain(xml="<domain><devices/></domain>")) as vm:
        assert vm.console.text == ""
        with pytest.raises(GuestError, match="the domain has no console"):
            vm.console.wait_for("x")
        with pytest.raises(GuestError, match="the domain has no console"):
            vm.console.send("x")
