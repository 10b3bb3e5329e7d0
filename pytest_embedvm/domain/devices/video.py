"""`<video>`: graphics cards."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.addresses.chipset import Chipset, Seat
from pytest_embedvm.domain.backends.virtio import VirtioOptions, given
from pytest_embedvm.domain.devices._base import Bus, Context, Device, PciTurn
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.qemu.parts import DevicePart, Json, Part
from pytest_embedvm.units import KIB
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Refusal, Unsigned, YesNo

#: Model to QEMU's device, as the primary card and as another one (libvirt: qemuDeviceVideo, qemuDeviceVideoSecondary).
_PRIMARY: Final = {
    "vga": "VGA", "cirrus": "cirrus-vga", "bochs": "bochs-display", "qxl": "qxl-vga", "ramfb": "ramfb",
    "virtio": "virtio-vga", "vmvga": "vmware-svga",
}  # fmt: skip
_SECONDARY: Final = {"qxl": "qxl", "virtio": "virtio-gpu-pci"}
_RESOLUTION: Final = frozenset({"vga", "bochs", "qxl", "virtio"})

#: libvirt: virDomainVideoDefaultRAM, qemuDomainDeviceVideoDefPostParse; in KiB
_VRAM: Final = {"vga": 16384, "cirrus": 16384, "vmvga": 16384, "bochs": 16384, "qxl": 65536}
_QXL_RAM: Final = 65536
_QXL_VGAMEM: Final = 16384


@dataclass(kw_only=True)
class Resolution:
    """`<resolution x='800' y='600'/>`."""

    x: Annotated[int, Unsigned(positive=True)]
    y: Annotated[int, Unsigned(positive=True)]


@dataclass(kw_only=True)
class VideoDriver(VirtioOptions):
    """`<driver>`."""

    name: Literal["qemu", "vhostuser"] | None = None


@dataclass(kw_only=True)
class Model:
    """`<model>` of a video card; sizes in KiB."""

    type: Annotated[
        Literal[
            "vga", "cirrus", "vmvga", "xen", "vbox", "qxl", "parallels", "virtio", "gop", "none", "bochs", "ramfb",
            "default",
        ],
        Refusal("unknown video model '{}'", ConfigUnsupported),
    ] = "default"  # fmt: skip
    ram: Annotated[int | None, Unsigned()] = None
    vram: Annotated[int | None, Unsigned()] = None
    vram64: Annotated[int | None, Unsigned()] = None
    vgamem: Annotated[int | None, Unsigned()] = None
    heads: Annotated[int | None, Unsigned()] = None
    primary: Annotated[bool | None, YesNo()] = None
    accel3d: Annotated[bool | None, At("acceleration/@accel3d"), YesNo()] = None
    resolution: Resolution | None = None

    def complete(self) -> None:
        """Fill in sizes as libvirt does."""
        if self.type == "none":
            self.heads = self.primary = None
            return
        self.heads = 1 if self.heads is None else self.heads or None
        if self.type == "qxl":
            self.ram, self.vgamem = self.ram or _QXL_RAM, _power_of_two(self.vgamem or _QXL_VGAMEM)
        self.vram = _power_of_two(self.vram or _VRAM.get(self.type, 0)) or None

    def memory_props(self) -> dict[str, Json]:
        """QEMU's properties for the sizes (libvirt: qemuBuildDeviceVideoCmd)."""
        match self.type:
            case "qxl":
                return {
                    "max_outputs": self.heads,
                    "ram_size": (self.ram or 0) * KIB,
                    "vram_size": (self.vram or 0) * KIB,
                    "vram64_size_mb": (self.vram64 or 0) // KIB,
                    "vgamem_mb": (self.vgamem or 0) // KIB,
                }
            case "virtio":
                return {"max_outputs": self.heads}
            case "vga" | "vmvga":
                return {"vgamem_mb": (self.vram or 0) // KIB}
            case "bochs":
                return {"vgamem": (self.vram or 0) * KIB}
            case _:
                return {}


@dataclass(kw_only=True)
class Video(Device):
    alias_prefix: ClassVar[str] = "video"

    driver: VideoDriver | None = None
    model: Model = field(default_factory=Model)

    @classmethod
    def implied(cls, context: Context) -> Iterable[Device]:
        # libvirt: virDomainDefAddImplicitVideo
        devices = context.domain.devices.all
        if any(d.is_display for d in devices) and not any(isinstance(d, cls) for d in devices):
            yield cls()

    @property
    def is_primary(self) -> bool:
        """Whether it is the card that the firmware uses."""
        return bool(self.model.primary)

    def arrange(self, devices: list[Device]) -> None:
        # libvirt: virDomainDefParseXML: the primary one comes first
        devices.insert(0 if self.is_primary else len(devices), self)

    @property
    def bus(self) -> Bus | None:
        if self.model.type in ("none", "ramfb"):
            return None
        return "pcie" if self.model.type == "virtio" else "pci"

    @property
    def pci_turn(self) -> PciTurn:
        return PciTurn.VIDEO

    def seat(self, chipset: Chipset) -> Seat | None:
        return chipset.video if self.is_primary else None

    def own_alias(self, number: int) -> str | None:
        return None if self.model.type == "none" else super().own_alias(number)

    def complete(self, context: Context) -> None:
        if self.model.type == "default":
            # libvirt: qemuDomainDefaultVideoDevice
            self.model.type = "cirrus" if context.capabilities.has_device("cirrus-vga") else "vga"
        videos = [device for device in context.domain.devices.all if isinstance(device, Video)]
        if videos[0] is self and not any(video.is_primary for video in videos):
            self.model.primary = True
        self._check_words()
        self.model.complete()

    def _check_words(self) -> None:
        """Refuse sizes that the model does not have, before they are filled in where it has."""
        for name in ("ram", "vram64", "vgamem"):
            if getattr(self.model, name) is not None and self.model.type != "qxl":
                raise ConfigUnsupported(f"{name} attribute only supported for video type qxl")

    def check(self, context: Context) -> None:
        # libvirt: virDomainDefVideoValidate, qemuValidateDomainDeviceDefVideo
        videos = [device for device in context.domain.devices.all if isinstance(device, Video)]
        model = self.model
        if len(videos) > 1 and any(video.model.type == "none" for video in videos):
            raise ConfigUnsupported("a 'none' video type must be the only video device defined for the domain")
        if sum(video.is_primary for video in videos) > 1:
            raise ConfigUnsupported("Only one primary video device is supported")
        if model.type != "none" and model.type not in _PRIMARY:
            raise _refused(f"domain configuration does not support video model '{model.type}'")
        if not self.is_primary and model.type not in (*_SECONDARY, "none"):
            raise _refused(f"video type '{model.type}' is only valid as primary video device")
        if (model.heads or 0) > 1 and model.type not in _SECONDARY:
            raise _refused(f"video type '{model.type}' doesn't support multiple 'heads'")
        self._check_extras()
        if model.type != "none":
            context.capabilities.require_device(self._qemu_device)

    def _check_extras(self) -> None:
        model = self.model
        if model.accel3d and model.type != "virtio":
            raise _refused("3d acceleration is supported only with 'virtio' video device")
        if model.accel3d:
            raise ConfigUnsupported("<acceleration accel3d='yes'/> of <video> is not supported by this driver")
        if model.resolution and model.type not in _RESOLUTION:
            raise XMLError("model resolution is not supported", origin=ErrorDomain.QEMU)
        if self.driver and self.driver.name == "vhostuser":
            raise ConfigUnsupported("<driver name='vhostuser'/> of <video> is not supported by this driver")
        if self.driver and model.type != "virtio":
            self.driver.check_absent()
        if model.vgamem is not None and model.vgamem < KIB:
            raise _refused("value for 'vgamem' must be at least 1 MiB (1024 KiB)")
        if model.type in ("vga", "vmvga") and (model.vram or 0) < KIB:
            raise _refused("value for 'vram' must be at least 1 MiB (1024 KiB)")

    @property
    def _qemu_device(self) -> str:
        return (_PRIMARY if self.is_primary else _SECONDARY)[self.model.type]

    def parts(self, context: Context) -> Iterable[Part]:
        if self.model.type == "none":
            return
        options = self.driver.virtio_props() if self.driver else {}
        props: dict[str, Json] = {"driver": self._qemu_device, **options, "id": self.id}
        props |= given(self.model.memory_props())
        if self.model.resolution:
            props |= {"xres": self.model.resolution.x, "yres": self.model.resolution.y}
        yield DevicePart(props | self.place(context))


def _power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length() if size else 0


def _refused(sentence: str) -> ConfigUnsupported:
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
