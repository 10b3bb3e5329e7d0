"""What serial and parallel ports, consoles and channels have in common: a character device on the host."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.backends.chardev import Chardev, chardev_id
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InvalidArgument, NoDevice
from pytest_embedvm.qemu.parts import DevicePart, Part, Props
from pytest_embedvm.xml.mapping import At

#: What takes a character device while the guest runs.
_PLUGGABLE: Final = ("virtio-serial", "pci", "usb")


@dataclass(kw_only=True)
class CharacterDevice(Device):
    """A device with a character device behind it.

    Each kind declares `chardev` again, first of its fields, because that is its place in the XML.
    """

    #: Whether what the guest writes is kept under the root, so that a failing test's report can show it.
    logged: ClassVar[bool] = False
    #: QEMU's backend for a port of the host, `type='dev'`.
    host_port: ClassVar[Literal["serial", "parallel"]] = "serial"

    pluggable: ClassVar[bool] = True
    configurable: ClassVar[bool] = True

    #: When openConsole() looks at devices of this kind; None for never.
    console_turn: ClassVar[int | None] = None
    #: Whether openChannel() looks at devices of this kind.
    is_channel: ClassVar[bool] = False

    chardev: Annotated[Chardev, At(".")]

    def complete(self, context: Context) -> None:
        self.chardev.complete()

    def check(self, context: Context) -> None:
        self.chardev.check()

    def forget_live(self) -> None:
        self.chardev.forget_live()

    @property
    def name(self) -> str | None:
        """The port's name in the guest, if it has one."""
        return None

    @property
    def kind_name(self) -> str:
        return "chr"

    def clone_obstacle(self) -> str | None:
        thing = self.chardev.of_the_host
        return thing and f"its {type(self).__name__.lower()} is {thing}, which is one thing of the host's"

    def check_plug(self) -> None:
        # libvirt: qemuDomainAttachChrDeviceAssignAddr
        if self.bus not in _PLUGGABLE:
            raise ConfigUnsupported(
                f"Hotplug unsupported for char device type '{type(self).__name__.lower()}'", origin=ErrorDomain.QEMU
            )

    def missing(self, *, live: bool) -> EmbedError:
        # libvirt: qemuDomainDetachDeviceChr, qemuDomainDetachDeviceConfig
        if live:
            return NoDevice(f"chr type '{type(self).__name__.lower()}' device not present in domain configuration")
        return InvalidArgument("device not present in domain configuration")

    def learn_pty(self, path: str) -> None:
        """QEMU has opened its pty at PATH, says query-chardev once the domain is started."""
        if self.chardev.type == "pty":
            self.chardev.learn_pty(path)

    def learn_state(self, *, connected: bool) -> bool:
        """The guest has the port open, or not; returns whether that is news. Kinds that show it say so."""
        return False

    def backend(self, context: Context) -> Part:
        """Its -chardev."""
        log = self.log_path(context) if self.logged else None
        return self.chardev.part(self.id, context.capabilities, default_log=log, host_port=self.host_port)

    def frontend(self, driver: str, props: Props, *, place: Props | None = None) -> Part:
        """Its -device; PLACE says where it sits, where libvirt says so first."""
        return DevicePart({"driver": driver, **(place or {}), "chardev": chardev_id(self.id), "id": self.id, **props})

    def log_path(self, context: Context) -> str | None:
        """The file that gets what the guest writes: its own `<log>`'s, or one under the root."""
        if self.chardev.log:
            return self.chardev.log.file
        return context.host.path("console-log", context.domain.name, self.id) if self.logged else None


def next_port(devices: Iterable[int | None]) -> int:
    """The target port after the highest that is taken (libvirt: virDomainChrDefPostParse)."""
    return max((port for port in devices if port is not None), default=-1) + 1
