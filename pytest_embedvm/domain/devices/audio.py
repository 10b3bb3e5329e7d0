"""`<audio>`: where the guest's sound goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import XMLError
from pytest_embedvm.qemu.parts import KeyvalPart, Part
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Offered, Unsigned

_TYPE: Final = Offered(
    ("none",),
    {
        kind: f"audio type '{kind}' is not supported by this driver"
        for kind in ("alsa", "coreaudio", "jack", "oss", "pulseaudio", "sdl", "spice", "file", "dbus")
    },
)


@dataclass(kw_only=True)
class Audio(Device):
    alias_prefix: ClassVar[str] = "audio"

    number: Annotated[int, At("@id"), Unsigned(positive=True)]
    type: Annotated[str, _TYPE]

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: qemuDomainDefAddDefaultAudioBackend: the backend that sound cards and VNC refer to
        if not any(isinstance(device, cls) for device in context.domain.devices.all):
            yield cls(number=1, type="none")

    def own_alias(self, number: int) -> str | None:
        return None  # libvirt names it by its own id

    @property
    def backend(self) -> str:
        """QEMU's name of it."""
        return f"audio{self.number}"

    def check(self, context: Context) -> None:
        same = [d for d in context.domain.devices.all if isinstance(d, Audio) and d.number == self.number]
        if len(same) > 1:
            raise XMLError(f"audio ID {self.number} is used multiple times", origin=ErrorDomain.DOMAIN)

    def parts(self, context: Context) -> Iterable[Part]:
        yield KeyvalPart("-audiodev", self.type, {"id": self.backend})
