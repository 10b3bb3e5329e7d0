"""libvirt_qemu's monitor events; its commands are in test_domain.py."""

from __future__ import annotations

import pytest

from pytest_embedvm import libvirt, libvirt_qemu
from pytest_embedvm.driver.events import MonitorEvent
from tests.api.test_connect import failure
from tests.api.test_events import Calls
from tests.fakes.driver import FakeDriver

REGEX = libvirt_qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_REGEX
NOCASE = libvirt_qemu.VIR_CONNECT_DOMAIN_QEMU_MONITOR_EVENT_REGISTER_NOCASE


@pytest.mark.parametrize(
    ("event", "flags", "names"),
    [
        (None, 0, ["STOP", "RESUME", "BLOCK_JOB_READY"]),
        ("STOP", 0, ["STOP"]),
        ("stop", 0, []),
        ("stop", NOCASE, ["STOP"]),
        ("S", 0, []),
        (".TOP", 0, []),
        ("^BLOCK|STOP", REGEX, ["STOP", "BLOCK_JOB_READY"]),
        ("^block", REGEX | NOCASE, ["BLOCK_JOB_READY"]),
    ],
)
def test_which_events_are_told(
    conn: libvirt.virConnect, driver: FakeDriver, event: str | None, flags: int, names: list[str]
) -> None:
    calls, everything = Calls(), Calls()
    domain = conn.createXML("a")
    libvirt_qemu.qemuMonitorEventRegister(conn, domain, event, calls, "opaque", flags)
    libvirt_qemu.qemuMonitorEventRegister(conn, None, None, everything, None)
    for name in ("STOP", "RESUME", "BLOCK_JOB_READY"):
        driver.events.emit(driver.all[0], MonitorEvent(name, 5, 7, '{"a":1}'))  # type: ignore[arg-type]
        everything.next()
    for name in names:
        connection, subject, *rest = calls.next()
        assert (connection is conn, subject.name()) == (True, "a")
        assert rest == [name, 5, 7, '{"a":1}', "opaque"]
    assert calls.empty()


def test_deregister(conn: libvirt.virConnect) -> None:
    number = libvirt_qemu.qemuMonitorEventRegister(conn, None, "STOP", print, None)
    assert libvirt_qemu.qemuMonitorEventDeregister(conn, number) is None
    assert failure(libvirt_qemu.qemuMonitorEventDeregister, conn, number)[2] == (
        f"invalid argument: could not find event callback {number} for deletion"
    )


def test_arguments_are_checked(conn: libvirt.virConnect) -> None:
    register = libvirt_qemu.qemuMonitorEventRegister
    assert failure(register, conn, None, None, print, None, 1 << 31) == (
        libvirt.VIR_ERR_INVALID_ARG,
        libvirt.VIR_FROM_NONE,
        "unsupported flags (0x80000000) in function virDomainQemuMonitorEventStateRegisterID",
    )
    assert "failed to compile regex '('" in failure(register, conn, None, "(", print, None, REGEX)[2]
