"""`<channel>`: a named port between guest and host."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.shapes import VirtioSerialAddress
from pytest_embedvm.domain.backends.chardev import Chardev, Source
from pytest_embedvm.domain.devices._base import Bus, Context, Device
from pytest_embedvm.domain.devices._character import CharacterDevice
from pytest_embedvm.errors import ConfigUnsupported, OperationInvalid, XMLError
from pytest_embedvm.qemu.parts import Json, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal

#: The port that the QEMU guest agent listens on.
GUEST_AGENT: Final = "org.qemu.guest_agent.0"

#: Where a libvirtd puts the sockets it invents: XML dumped from a running domain names them.
_LIBVIRTS_OWN: Final = re.compile(r".*/(channel/target|libvirt/qemu/channel)/[^/]+[/.][^/]+")

State: TypeAlias = Literal["connected", "disconnected"]


@dataclass(kw_only=True)
class Target:
    """What the guest sees: a virtio port, or an address of its network."""

    type: Annotated[
        Literal["guestfwd", "virtio", "xen"] | None,
        Refusal("unknown target type '{}' specified for character device", ConfigUnsupported),
    ] = None
    address: str | None = None
    port: str | None = None
    name: str | None = None
    #: Whether the guest has opened the port; of a running domain.
    state: State | None = None


@dataclass(kw_only=True)
class Channel(CharacterDevice):
    alias_prefix: ClassVar[str] = "channel"
    is_channel: ClassVar[bool] = True

    chardev: Annotated[Chardev, At(".")]
    target: Target | None = None
    #: Whether the socket's path is the driver's choice: only a running domain shows it.
    generated: bool = field(default=False, metadata={"xml": False})

    @property
    def name(self) -> str | None:
        """The port's name in the guest."""
        return self.target.name if self.target else None

    @property
    def bus(self) -> Bus | None:
        return "virtio-serial"

    def complete(self, context: Context) -> None:
        super().complete(context)
        if self.target is not None:
            self.target.state = None
        if self.chardev.type == "unix" and self._is_left_open(context):
            # libvirt: qemuDomainPrepareChannel
            self.chardev.sources, self.generated = [Source(mode="bind")], True

    def clone_obstacle(self) -> str | None:
        return None if self.generated else super().clone_obstacle()

    def check_addition(self, others: Iterable[Device], *, live: bool) -> None:
        # libvirt: qemuDomainChrInsert
        if self.name and any(isinstance(other, Channel) and other.name == self.name for other in others):
            raise OperationInvalid("chardev already exists")

    def check(self, context: Context) -> None:
        if self.target is None:
            # libvirt: virDomainChrDefParseTargetXML
            raise XMLError("target type must be specified for channel device", origin=ErrorDomain.DOMAIN)
        if self.target.type is None:
            raise ConfigUnsupported("unknown target type '(null)' specified for character device")
        if self.target.type != "virtio":
            raise ConfigUnsupported(
                f"channel target type '{self.target.type}' is not supported", origin=ErrorDomain.QEMU
            )
        for name in ("address", "port"):
            if getattr(self.target, name) is not None:
                raise ConfigUnsupported(
                    f"{name}='{getattr(self.target, name)}' of a channel's element <target> "
                    "is not supported for target type 'virtio'"
                )
        if not self.generated:
            super().check(context)
        context.capabilities.require_device("virtserialport")

    def settle(self, context: Context) -> None:
        if self.generated:
            self.chardev.sources = [Source(mode="bind", path=self._own_path(context))]

    def _is_left_open(self, context: Context) -> bool:
        path = self.chardev.path
        # libvirt: qemuDomainChrDefDropDefaultPath
        return not path or path == self._own_path(context) or _LIBVIRTS_OWN.fullmatch(path) is not None

    def _own_path(self, context: Context) -> str:
        item = self.name or self._numbered()
        return context.host.path("channel", context.domain.name, item)

    def _numbered(self) -> str:
        # libvirt: qemuDomainPrepareChannel
        at = self.address if isinstance(self.address, VirtioSerialAddress) else VirtioSerialAddress()
        return f"vioser-{at.controller:02d}-{at.bus:02d}-{at.port or 0:02d}.sock"

    def learn_state(self, *, connected: bool) -> bool:
        state: State = "connected" if connected else "disconnected"
        if self.target is None or self.target.state == state:
            return False
        self.target.state = state
        return True

    def forget_live(self) -> None:
        super().forget_live()
        if self.target is not None:
            self.target.state = None
        if self.generated:
            self.chardev.sources = []

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildVirtioSerialPortDevProps
        yield self.backend(context)
        name: dict[str, Json] = {"name": self.name} if self.name else {}
        yield self.frontend("virtserialport", name, place=self.place(context))
