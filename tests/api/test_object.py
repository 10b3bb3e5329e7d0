"""The crossing: from which threads and processes a call may come."""

from __future__ import annotations

import os
import threading
import warnings

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.loop import loop_thread
from tests.api.conftest import URI
from tests.api.test_connect import failure
from tests.fakes.driver import FakeDriver


def test_from_the_loop_thread_is_an_error_and_no_hang(conn: libvirt.virConnect) -> None:
    async def call() -> tuple[int, int, str]:
        return failure(conn.numOfDomains)

    code, origin, message = loop_thread().run(call())
    assert (code, origin) == (libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_FROM_EVENT)
    assert "called from the driver's own loop thread" in message


def test_from_a_forked_child_is_an_error_that_names_the_parent(conn: libvirt.virConnect) -> None:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads; that is the point
        child = os.fork()
    if child == 0:
        try:
            conn.numOfDomains()
        except libvirt.libvirtError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        message = answer.read().decode()
    os.waitpid(child, 0)
    assert f"belongs to process {os.getpid()}" in message
    assert "a forked child must open a root of its own" in message
    assert conn.numOfDomains() == 0


def test_from_many_threads(conn: libvirt.virConnect) -> None:
    names = [f"n{number}" for number in range(16)]
    threads = [threading.Thread(target=conn.createXML, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(d.name() for d in conn.listAllDomains()) == sorted(names)


def test_the_connection_owns_what_it_starts(conn: libvirt.virConnect, driver: FakeDriver) -> None:
    """By which the driver knows what AUTO_DESTROY ends."""
    conn.createXML("a", libvirt.VIR_DOMAIN_START_AUTODESTROY)
    conn.defineXML("b").createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)
    conn.defineXML("c").create()
    owners = {machine.owner for machine in driver.all}
    conn.close()
    assert [owners] == [set(driver.owners)]


def test_many_roots_at_once(drivers: list[FakeDriver]) -> None:
    connections = [libvirt.open(f"{URI}{number}") for number in range(20)]
    for number, connection in enumerate(connections):
        connection.createXML(f"n{number}")
    assert [d.name() for c in connections for d in c.listAllDomains()] == [f"n{n}" for n in range(20)]
    for connection in connections:
        connection.close()
    assert [driver.closings for driver in drivers] == [1] * 20


def test_a_keyboard_interrupt_is_not_swallowed(conn: libvirt.virConnect, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_self: object, coroutine: object) -> None:
        coroutine.close()  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(conn._session.loop), "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            conn.numOfDomains()


@pytest.mark.parametrize(("text", "error"), [("a\0b", ValueError), ("\ud800", UnicodeEncodeError)])
def test_text_that_c_cannot_take(conn: libvirt.virConnect, text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        conn.lookupByName(text)
