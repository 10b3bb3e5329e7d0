from __future__ import annotations

import pickle
import threading

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.api.error import report
from pytest_embedvm.errors import InternalError, MissingName


@pytest.fixture(autouse=True)
def no_last_error() -> None:
    libvirt.virResetLastError()


def test_every_getter(conn: libvirt.virConnect) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        conn.lookupByName("x")
    error = caught.value
    sentence = "Domain not found: no domain with matching name 'x'"
    assert str(error) == error.get_error_message() == sentence
    assert error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN
    assert error.get_error_domain() == libvirt.VIR_FROM_QEMU
    assert error.get_error_level() == libvirt.VIR_ERR_ERROR
    assert (error.get_str1(), error.get_str2()) == ("Domain not found: %s", "no domain with matching name 'x'")
    assert (error.get_str3(), error.get_int1(), error.get_int2()) == (None, -1, -1)
    assert type(error.get_error_code()) is int


def test_one_made_by_hand_has_nothing_to_tell() -> None:
    error = libvirt.libvirtError("mine")
    assert str(error) == "mine"
    getters = (
        error.get_error_code, error.get_error_domain, error.get_error_message, error.get_error_level,
        error.get_str1, error.get_str2, error.get_str3, error.get_int1, error.get_int2,
    )  # fmt: skip
    assert [get() for get in getters] == [None] * 9


def test_one_made_by_hand_carries_the_last_error() -> None:
    report(InternalError("x"))
    assert str(libvirt.libvirtError("mine")) == "internal error: x"


def test_a_sentence_without_a_detail() -> None:
    assert report(MissingName("a")).err[4:6] == ("missing name information", None)  # type: ignore[index]


def test_the_last_error(conn: libvirt.virConnect) -> None:
    assert libvirt.virGetLastError() is None
    assert libvirt.virGetLastErrorMessage() == "no error"
    assert (libvirt.virGetLastErrorCode(), libvirt.virGetLastErrorDomain()) == (0, 0)
    with pytest.raises(libvirt.libvirtError) as caught:
        conn.lookupByName("x")
    assert libvirt.virGetLastError() == conn.virConnGetLastError() == caught.value.err
    assert libvirt.virGetLastErrorCode() == libvirt.VIR_ERR_NO_DOMAIN
    assert libvirt.virGetLastErrorDomain() == libvirt.VIR_FROM_QEMU
    assert libvirt.virGetLastErrorMessage() == str(caught.value)
    conn.isAlive()  # the next call clears it
    assert libvirt.virGetLastError() is None


def test_the_last_error_is_the_threads_own() -> None:
    thread = threading.Thread(target=lambda: report(InternalError("x")))
    thread.start()
    thread.join()
    assert libvirt.virGetLastError() is None


def test_reset(conn: libvirt.virConnect) -> None:
    report(InternalError("x"))
    conn.virConnResetLastError()
    assert libvirt.virGetLastError() is None


def test_the_handler_is_told(conn: libvirt.virConnect) -> None:
    told: list[tuple[object, object]] = []
    assert libvirt.registerErrorHandler(lambda ctx, error: told.append((ctx, error)), "context") == 0
    try:
        with pytest.raises(libvirt.libvirtError) as caught:
            conn.lookupByName("x")
    finally:
        libvirt.registerErrorHandler(None, None)
    with pytest.raises(libvirt.libvirtError):
        conn.lookupByName("y")
    assert told == [("context", caught.value.err)]


def test_nothing_is_printed_without_a_handler(conn: libvirt.virConnect, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(libvirt.libvirtError):
        conn.lookupByName("x")
    assert capfd.readouterr() == ("", "")


def test_it_can_be_pickled() -> None:
    """xdist sends it to the controller."""
    error = report(InternalError("x"))
    libvirt.virResetLastError()
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.err) == (str(error), error.err)
