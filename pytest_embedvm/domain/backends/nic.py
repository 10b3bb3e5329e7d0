"""What a network card may be told beyond its model: `<driver>` and `<rom>`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import Json
from pytest_embedvm.xml.scalars import OnOff, YesNo

_TX: Final = {"iothread": "bh", "timer": "timer"}


@dataclass(kw_only=True)
class HostOffloads:
    """What the guest may leave to the host: checksums, cutting large packets."""

    csum: Annotated[bool | None, OnOff()] = None
    gso: Annotated[bool | None, OnOff()] = None
    tso4: Annotated[bool | None, OnOff()] = None
    tso6: Annotated[bool | None, OnOff()] = None
    ecn: Annotated[bool | None, OnOff()] = None
    ufo: Annotated[bool | None, OnOff()] = None
    mrg_rxbuf: Annotated[bool | None, OnOff()] = None

    def props(self) -> dict[str, Json]:
        """QEMU's properties, those without a value left out by the caller."""
        return {
            "csum": self.csum, "gso": self.gso, "host_tso4": self.tso4, "host_tso6": self.tso6,
            "host_ecn": self.ecn, "host_ufo": self.ufo, "mrg_rxbuf": self.mrg_rxbuf,
        }  # fmt: skip


@dataclass(kw_only=True)
class GuestOffloads:
    """What the guest takes from the host."""

    csum: Annotated[bool | None, OnOff()] = None
    tso4: Annotated[bool | None, OnOff()] = None
    tso6: Annotated[bool | None, OnOff()] = None
    ecn: Annotated[bool | None, OnOff()] = None
    ufo: Annotated[bool | None, OnOff()] = None

    def props(self) -> dict[str, Json]:
        """QEMU's properties, those without a value left out by the caller."""
        return {
            "guest_csum": self.csum, "guest_tso4": self.tso4, "guest_tso6": self.tso6,
            "guest_ecn": self.ecn, "guest_ufo": self.ufo,
        }  # fmt: skip


@dataclass(kw_only=True)
class Driver:
    """`<driver>`: how a virtio card works. The order is libvirt's (virDomainVirtioNetDriverFormat)."""

    name: Literal["qemu", "vhost"] | None = None
    txmode: Literal["iothread", "timer"] | None = None
    ioeventfd: Annotated[bool | None, OnOff()] = None
    event_idx: Annotated[bool | None, OnOff()] = None
    queues: int | None = None
    rx_queue_size: int | None = None
    tx_queue_size: int | None = None
    rss: Annotated[bool | None, OnOff()] = None
    rss_hash_report: Annotated[bool | None, OnOff()] = None
    iommu: Annotated[bool | None, OnOff()] = None
    ats: Annotated[bool | None, OnOff()] = None
    packed: Annotated[bool | None, OnOff()] = None
    page_per_vq: Annotated[bool | None, OnOff()] = None
    host: HostOffloads | None = None
    guest: GuestOffloads | None = None

    @property
    def says_nothing(self) -> bool:
        """Whether it holds no more than `name='qemu'`."""
        return self.name in (None, "qemu") and all(v is None for k, v in vars(self).items() if k != "name")

    def check(self, mac: str, kind: str, *, virtio: bool) -> None:
        """Refuse what the card with this MAC, of an interface of this KIND, cannot be told.

        :raise ConfigUnsupported: naming the option.
        """
        if self.name == "vhost":
            raise ConfigUnsupported(
                "driver name='vhost' of an interface is only supported for tap devices", origin=ErrorDomain.QEMU
            )
        given = [name for name, value in vars(self).items() if value is not None and name != "name"]
        if given and not virtio:
            # libvirt: virDomainCheckVirtioOptionsAreAbsent
            raise ConfigUnsupported(f"{given[0]} driver option is only supported for virtio devices")
        # libvirt: qemuValidateDomainDeviceDefNetwork
        if (self.queues or 0) > 1:
            raise ConfigUnsupported(
                f"interface {mac} - multiqueue is not supported for network interfaces of type {kind}",
                origin=ErrorDomain.QEMU,
            )
        for name in ("rx_queue_size", "tx_queue_size"):
            size = getattr(self, name) or 0
            if size & (size - 1):
                raise ConfigUnsupported(f"{name} has to be a power of two", origin=ErrorDomain.QEMU)

    def props(self) -> dict[str, Json]:
        """QEMU's properties (libvirt: qemuBuildNicDevProps)."""
        props: dict[str, Json] = {
            "iommu_platform": self.iommu, "ats": self.ats, "packed": self.packed, "page-per-vq": self.page_per_vq,
            "tx": _TX.get(self.txmode or ""), "ioeventfd": self.ioeventfd, "event_idx": self.event_idx,
        }  # fmt: skip
        props |= (self.host or HostOffloads()).props() | (self.guest or GuestOffloads()).props()
        props |= {
            "rss": self.rss, "hash": self.rss_hash_report,
            "rx_queue_size": self.rx_queue_size, "tx_queue_size": self.tx_queue_size,
        }  # fmt: skip
        return {name: value for name, value in props.items() if value is not None}


@dataclass(kw_only=True)
class Rom:
    """`<rom>`: the card's option ROM, which boots from the network."""

    enabled: Annotated[bool | None, YesNo()] = None
    bar: Annotated[bool | None, OnOff()] = None
    file: str | None = None

    def check(self) -> None:
        """Refuse a ROM that is switched off and described all the same.

        :raise ConfigUnsupported: when it is.
        """
        if self.enabled is False and (self.bar is not None or self.file is not None):
            # libvirt: virDomainDeviceInfoParseXML
            raise ConfigUnsupported("ROM tuning is not supported when ROM is disabled")

    def props(self) -> dict[str, Json]:
        """QEMU's properties (libvirt: qemuBuildRomProps)."""
        if self.enabled is False:
            return {"romfile": ""}
        bar: dict[str, Json] = {} if self.bar is None else {"rombar": int(self.bar)}
        return bar | ({} if self.file is None else {"romfile": self.file})
