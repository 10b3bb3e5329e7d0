"""What QEMU's events mean: one table, event name to handler.

A handler changes the state and tells the callbacks, in libvirt's order (libvirt: qemu_process.c,
qemuProcessHandle…). It runs between two messages of the monitor, never waits, never takes the job.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from pytest_embedvm.constants import (
    ConnectDomainEventAgentLifecycleReason,
    ConnectDomainEventAgentLifecycleState,
    DomainEventCrashedDetailType,
    DomainEventIOErrorAction,
    DomainEventPMSuspendedDetailType,
    DomainEventResumedDetailType,
    DomainEventShutdownDetailType,
    DomainEventStartedDetailType,
    DomainEventSuspendedDetailType,
    DomainEventTrayChangeReason,
    DomainEventType,
    DomainEventWatchdogAction,
    DomainPausedReason,
    DomainRunningReason,
    DomainState,
)
from pytest_embedvm.domain.consoles import learn_state
from pytest_embedvm.domain.media import disk_with
from pytest_embedvm.driver import blockjobs, events, state
from pytest_embedvm.driver.hotplug import unplugging
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.monitor import Event
from pytest_embedvm.units import KIB

if TYPE_CHECKING:
    from pytest_embedvm.driver.machine import Machine
    from pytest_embedvm.driver.running import Running

#: How long QEMU may take to end after the guest powered off: it writes its images back.
POWEROFF_TIMEOUT_S: Final = 15.0  # libvirt: virProcessKillPainfully

Data = Mapping[str, Any]
Handler = Callable[["Machine", "Running", Data], None]


def react(machine: Machine, running: Running, event: Event) -> None:
    """Handle one event of QEMU's; the meaning of those that the table lacks is only for who listens to QEMU itself."""
    machine.emit(_as_it_came(event))
    handler = HANDLERS.get(event["event"])
    if handler is not None:
        handler(machine, running, event.get("data", {}))
        running.recording.mark()


def _as_it_came(event: Event) -> events.MonitorEvent:
    moment, data = event.get("timestamp", {}), event.get("data")
    details = None if data is None else json.dumps(data)
    return events.MonitorEvent(event["event"], moment.get("seconds", -1), moment.get("microseconds", -1), details)


def announce_shutdown(machine: Machine, detail: DomainEventShutdownDetailType) -> None:
    """Enter SHUTDOWN and say so; once per life of a machine."""
    if machine.status != state.SHUTTING_DOWN:
        machine.status = state.SHUTTING_DOWN
        machine.emit_lifecycle(DomainEventType.SHUTDOWN, detail)


def _shutdown(machine: Machine, running: Running, data: Data) -> None:
    running.guest_left.set()
    if machine.status == state.SHUTTING_DOWN:
        return  # our own signal comes back as a second SHUTDOWN
    running.got_shutdown = True
    restarts = machine.action("on_poweroff") == "restart"
    by_guest = data.get("guest", False)
    if running.ending is None and (running.fake_reboot or (restarts and by_guest)):
        fake_reboot(machine, running)  # libvirt: a fake reboot changes no state and tells nobody
        return
    guest, host = DomainEventShutdownDetailType.GUEST, DomainEventShutdownDetailType.HOST
    announce_shutdown(machine, guest if by_guest else host)
    end_soon(running)


def end_soon(running: Running) -> None:
    """Have QEMU end by itself, and by force if it takes too long (libvirt: qemuProcessShutdownOrReboot)."""
    running.process.send_signal(signal.SIGTERM)
    timer = asyncio.get_running_loop().call_later(POWEROFF_TIMEOUT_S, running.process.send_signal, signal.SIGKILL)
    running.stack.callback(timer.cancel)


def fake_reboot(machine: Machine, running: Running) -> None:
    """Reset a guest that powered off, and let it run again (libvirt: qemuProcessFakeReboot)."""
    running.background(asyncio.get_running_loop().create_task(_fake_reboot(machine, running)))


async def _fake_reboot(machine: Machine, running: Running) -> None:
    try:
        await running.monitor.execute("system_reset")
        await running.monitor.execute("cont")
    except EmbedError as error:
        log = machine.root.log.about(machine.name)
        log.warning("the guest of QEMU %d was to reboot: %s", running.process.pid, error)
        await running.process.kill()
    finally:
        running.fake_reboot = False
        running.got_shutdown = False


def _cable_joined(_machine: Machine, running: Running, data: Data) -> None:
    running.joined.add(str(data["netdev-id"]))
    running.has_joined.set()


def _reset(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    running.fake_reboot = False
    running.guest_left.set()
    machine.emit(events.Reboot())


def _stop(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    reason, running.pausing = running.pausing, DomainPausedReason.UNKNOWN
    if machine.status.state is DomainState.RUNNING and not running.got_shutdown:
        suspended(machine, reason)


def suspended(machine: Machine, reason: DomainPausedReason) -> None:
    """Enter PAUSED for this REASON, and say so."""
    machine.status = state.paused(reason)
    detail = state.SUSPENDED_DETAIL.get(reason, DomainEventSuspendedDetailType.PAUSED)
    machine.emit_lifecycle(DomainEventType.SUSPENDED, detail)


def _resume(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    reason, running.resuming = running.resuming, DomainRunningReason.UNPAUSED
    if machine.status.state is not DomainState.RUNNING and machine.status != state.SHUTTING_DOWN:
        machine.status = state.running(reason)
        detail = state.RESUMED_DETAIL.get(reason, DomainEventResumedDetailType.UNPAUSED)
        machine.emit_lifecycle(DomainEventType.RESUMED, detail)


#: QEMU's word to libvirt's. libvirt: qemuMonitorJSONHandleWatchdog
_WATCHDOG_ACTIONS: Final = {
    "none": DomainEventWatchdogAction.NONE,
    "pause": DomainEventWatchdogAction.PAUSE,
    "reset": DomainEventWatchdogAction.RESET,
    "poweroff": DomainEventWatchdogAction.POWEROFF,
    "shutdown": DomainEventWatchdogAction.SHUTDOWN,
    "debug": DomainEventWatchdogAction.DEBUG,
    "inject-nmi": DomainEventWatchdogAction.INJECTNMI,
}


def _watchdog(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    action = _WATCHDOG_ACTIONS.get(data.get("action", ""), DomainEventWatchdogAction.NONE)
    machine.emit(events.Watchdog(action))
    if action is DomainEventWatchdogAction.PAUSE and machine.status.state is DomainState.RUNNING:
        suspended(machine, DomainPausedReason.WATCHDOG)


#: libvirt: qemuMonitorJSONHandleIOError
_IO_ERROR_ACTIONS: Final = {
    "ignore": DomainEventIOErrorAction.NONE,
    "stop": DomainEventIOErrorAction.PAUSE,
    "report": DomainEventIOErrorAction.REPORT,
}


def _io_error(machine: Machine, running: Running, data: Data) -> None:
    action = _IO_ERROR_ACTIONS.get(data.get("action", ""), DomainEventIOErrorAction.NONE)
    reason = "enospc" if data.get("nospace") else ""
    alias, source = disk_with(machine.live, data.get("node-name", "")) if machine.live else ("", "")
    for kind in (events.IoError, events.IoErrorReason):
        machine.emit(kind(source=source, alias=alias, action=action, reason=reason))
    if action is DomainEventIOErrorAction.PAUSE and machine.status.state is DomainState.RUNNING:
        suspended(machine, DomainPausedReason.IOERROR)
        if running.transfer:
            running.transfer.report_io_error()


def _panicked(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    panicked(machine, running)


def panicked(machine: Machine, running: Running, *, told: bool = False) -> None:
    """Do what the domain wants to be done then, and say that it crashed unless that was TOLD."""
    # libvirt: processGuestPanicEvent
    if not told:
        machine.status = state.CRASHED
        machine.emit_lifecycle(DomainEventType.CRASHED, DomainEventCrashedDetailType.PANICKED)
    action = machine.action("on_crash")
    if action == "restart":
        running.resuming = DomainRunningReason.CRASHED
        fake_reboot(machine, running)
    elif action == "destroy":
        running.ending = state.PANICKED
        running.process.send_signal(signal.SIGKILL)


def _pm_suspended(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    machine.emit(events.PMSuspend())
    if machine.status.state is DomainState.RUNNING:
        machine.status = state.PMSUSPENDED
        machine.emit_lifecycle(DomainEventType.PMSUSPENDED, DomainEventPMSuspendedDetailType.MEMORY)


def _pm_suspended_to_disk(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    machine.emit(events.PMSuspendDisk())
    if machine.status.state is DomainState.RUNNING:
        machine.status = state.PMSUSPENDED
        machine.emit_lifecycle(DomainEventType.PMSUSPENDED, DomainEventPMSuspendedDetailType.DISK)


def _pm_wakeup(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    machine.emit(events.PMWakeup())
    if machine.status == state.PMSUSPENDED:
        machine.status = state.running(DomainRunningReason.WAKEUP)
        machine.emit_lifecycle(DomainEventType.STARTED, DomainEventStartedDetailType.WAKEUP)


def _rtc_change(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    machine.emit(events.RtcChange(data["offset"]))


def _balloon_change(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    balloon_changed(machine, data["actual"])


def balloon_changed(machine: Machine, size: int) -> None:
    """The guest has SIZE bytes of memory now."""
    actual = -(-size // KIB)
    if machine.live:
        machine.live.current_memory = actual
    machine.emit(events.BalloonChange(actual))


def _tray_moved(machine: Machine, running: Running, data: Data) -> None:
    alias = data.get("id") or data.get("device", "")
    for device in machine.live.devices.all if machine.live else ():
        if device.alias == alias:
            device.learn_tray(is_open=data["tray-open"])
    if data["tray-open"]:
        running.trays.opened(alias)
    reason = DomainEventTrayChangeReason.OPEN if data["tray-open"] else DomainEventTrayChangeReason.CLOSE
    machine.emit(events.TrayChange(alias, reason))


def _device_deleted(machine: Machine, running: Running, data: Data) -> None:
    if "device" in data:  # else a device without an id, which nobody can name
        unplugging.deleted(machine, running, data["device"])


def _unplug_refused(machine: Machine, running: Running, data: Data) -> None:
    if "device" in data:
        unplugging.refused(machine, running, data["device"])


def _port_changed(machine: Machine, running: Running, data: Data) -> None:
    if machine.live:
        learn_state(machine.live, data["id"], connected=data["open"])
    channel = running.agent
    if channel is None or data["id"] != channel.alias or data["open"] == channel.connected:
        return
    if data["open"]:
        channel.guest_opened()
    else:
        channel.guest_closed()
    announce_agent(machine, connected=data["open"])


def announce_agent(machine: Machine, *, connected: bool) -> None:
    """Say that the guest has opened, or closed, the agent's channel."""
    states = ConnectDomainEventAgentLifecycleState
    new = states.CONNECTED if connected else states.DISCONNECTED
    machine.emit(events.AgentLifecycle(new, ConnectDomainEventAgentLifecycleReason.CHANNEL))


def _migration(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    if running.transfer:
        running.transfer.report(data["status"])


def _migration_pass(machine: Machine, running: Running, data: Data) -> None:  # noqa: ARG001
    machine.emit(events.MigrationIteration(data["pass"]))


HANDLERS: Final[Mapping[str, Handler]] = {
    "BALLOON_CHANGE": _balloon_change,
    "BLOCK_IO_ERROR": _io_error,
    "DEVICE_DELETED": _device_deleted,
    "DEVICE_TRAY_MOVED": _tray_moved,
    "DEVICE_UNPLUG_GUEST_ERROR": _unplug_refused,
    "GUEST_PANICKED": _panicked,
    "JOB_STATUS_CHANGE": blockjobs.changed,
    "MIGRATION": _migration,
    "MIGRATION_PASS": _migration_pass,
    "NETDEV_STREAM_CONNECTED": _cable_joined,
    "RESET": _reset,
    "RESUME": _resume,
    "RTC_CHANGE": _rtc_change,
    "SHUTDOWN": _shutdown,
    "STOP": _stop,
    "SUSPEND": _pm_suspended,
    "SUSPEND_DISK": _pm_suspended_to_disk,
    "VSERPORT_CHANGE": _port_changed,
    "WAKEUP": _pm_wakeup,
    "WATCHDOG": _watchdog,
}
