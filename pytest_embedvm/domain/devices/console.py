"""`<console>`: the first serial port under a second name, or a virtio console."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.chardev import Chardev
from pytest_embedvm.domain.devices._base import PLUGGED_IN, Bus, Context, Device
from pytest_embedvm.domain.devices._character import CharacterDevice, next_port
from pytest_embedvm.domain.devices.serial import Serial
from pytest_embedvm.errors import ConfigUnsupported, OperationInvalid
from pytest_embedvm.qemu.parts import Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal

#: Types of serial port that libvirt shows as a console too (virDomainDefAddConsoleCompat).
_SHOWN: Final = ("isa-serial", "spapr-vio-serial", "system-serial", "sclp-serial")
_REFUSED: Final = {
    # libvirt: qemuBuildChrDeviceCommandLine, qemuBuildConsoleChrDeviceProps
    "sclp": "sclpconsole is not supported in this QEMU binary",
    "sclplm": "sclplmconsole is not supported in this QEMU binary",
}


@dataclass(kw_only=True)
class Console(CharacterDevice):
    alias_prefix: ClassVar[str] = "console"
    console_turn: ClassVar[int | None] = 1
    finds_own_port: ClassVar[bool] = True
    logged: ClassVar[bool] = True

    chardev: Annotated[Chardev, At(".")]
    tty: str | None = None
    type: Annotated[
        Literal["none", "serial", "xen", "uml", "virtio", "lxc", "openvz", "sclp", "sclplm"] | None,
        At("target/@type"),
        Refusal("unknown target type '{}' specified for character device", ConfigUnsupported),
    ] = None
    port: Annotated[int | None, At("target/@port"), Refusal("Invalid port number: {}")] = None
    #: Whether nobody wrote it.
    unasked: bool = field(default=False, metadata={"xml": False})

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: virDomainDefAddConsoleCompat
        devices = context.domain.devices.all
        first = next((d for d in devices if isinstance(d, Console)), None)
        serial = next((d for d in devices if isinstance(d, Serial)), None)
        if serial is None:
            if first is not None and first.is_mirror:
                yield Serial(chardev=first.chardev, port=first.port, alias=first.alias, address=first.address)
        elif (first is None or not first.is_mirror) and (serial.type or "isa-serial") in _SHOWN:
            yield Console(chardev=serial.chardev, unasked=True)

    @property
    def stands_first(self) -> bool:
        return self.unasked

    @property
    def is_mirror(self) -> bool:
        """Whether it is a serial port under a second name, so that QEMU gets nothing for it."""
        return self.type in (None, "none", "serial")

    @property
    def bus(self) -> Bus | None:
        # libvirt gives no address to a virtio console: QEMU finds it a port
        return None if self.is_mirror else "virtio-serial"

    @property
    def command_line_turn(self) -> int:
        return PLUGGED_IN + 1  # after channels, whose ports are known (libvirt: qemuBuildCommandLine)

    def complete(self, context: Context) -> None:
        consoles = [d for d in context.domain.devices.all if isinstance(d, Console)]
        self.tty = None
        if self.is_mirror:
            self.type = "serial"
            if consoles[0] is not self:
                # libvirt: virDomainDefPostParseInternal
                raise ConfigUnsupported("Only the first console can be a serial port")
            self._take_serial(context)
            self.alias = None  # until it is settled: no alias names two devices
        else:
            super().complete(context)
        if self.port is None:
            self.port = next_port(d.port for d in consoles if not d.unasked)

    def _take_serial(self, context: Context) -> None:
        serial = next(d for d in context.domain.devices.all if isinstance(d, Serial))
        self.chardev, self.port = serial.chardev, serial.port
        self.alias, self.address = serial.alias, serial.address

    def check(self, context: Context) -> None:
        if self.is_mirror:
            return
        if self.type != "virtio":
            raise ConfigUnsupported(
                _REFUSED.get(str(self.type), f"unsupported console target type {self.type}"), origin=ErrorDomain.QEMU
            )
        super().check(context)
        context.capabilities.require_device("virtconsole")

    def find(self, others: Iterable[Device], *, live: bool) -> Device:
        if self.is_mirror:
            # libvirt: qemuDomainDetachDeviceChr, qemuDomainChrRemove
            raise self.missing(live=live) if live else OperationInvalid("detaching serial console is not supported")
        return super().find(others, live=live)

    def settle(self, context: Context) -> None:
        if self.is_mirror:
            self._take_serial(context)

    def learn_pty(self, path: str) -> None:
        super().learn_pty(path)
        if self.chardev.type == "pty":
            self.tty = path

    def forget_live(self) -> None:
        super().forget_live()
        self.tty = None

    def clone_obstacle(self) -> str | None:
        return None if self.is_mirror else super().clone_obstacle()

    def parts(self, context: Context) -> Iterable[Part]:
        if self.is_mirror:
            return
        yield self.backend(context)
        yield self.frontend("virtconsole", {}, place=self.place(context))
