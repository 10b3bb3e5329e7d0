"""The elements of a `<disk>` that are not shared with other kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pytest_embedvm.domain.backends.blockdev import CacheMode, NodeOptions
from pytest_embedvm.domain.backends.source import Format
from pytest_embedvm.domain.backends.virtio import VirtioOptions, given
from pytest_embedvm.qemu.parts import Json
from pytest_embedvm.xml.scalars import OnOff, Unsigned

DiskBus = Literal["ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd"]


@dataclass(kw_only=True)
class Driver(VirtioOptions):
    """`<driver>`: how QEMU reads and writes the image."""

    name: str | None = None
    type: Annotated[str | None, Format()] = None
    cache: Literal["default", "none", "writethrough", "writeback", "directsync", "unsafe"] | None = None
    error_policy: Literal["stop", "report", "ignore", "enospace"] | None = None
    rerror_policy: Literal["stop", "report", "ignore", "enospace"] | None = None
    io: Literal["native", "threads", "io_uring"] | None = None
    ioeventfd: Annotated[bool | None, OnOff()] = None
    event_idx: Annotated[bool | None, OnOff()] = None
    copy_on_read: Annotated[bool | None, OnOff()] = None
    discard: Literal["unmap", "ignore"] | None = None
    detect_zeroes: Literal["off", "on", "unmap"] | None = None
    queues: Annotated[int | None, Unsigned()] = None
    queue_size: Annotated[int | None, Unsigned()] = None

    def complete(self) -> None:
        """Fill in and leave out what libvirt does (virDomainDiskDefPostParse, qemuDomainDeviceDiskDefPostParse)."""
        self.name = self.name or "qemu"
        self.type = self.type or "raw"
        self.cache = None if self.cache == "default" else self.cache
        self.queues = self.queues or None
        self.queue_size = self.queue_size or None

    def node_options(self, cache: CacheMode | None) -> NodeOptions:
        """How QEMU treats the disk's nodes."""
        zeroes = self.detect_zeroes
        if zeroes == "unmap" and self.discard != "unmap":
            zeroes = "on"  # libvirt: qemuDomainPrepareDiskSourceData's detect-zeroes without discard
        return NodeOptions(cache, self.io, self.discard, zeroes)

    def error_props(self) -> dict[str, Json]:
        """What the guest's disk does when the host's fails."""
        # libvirt: qemuBuildDiskGetErrorPolicy
        if self.error_policy == "enospace":
            return given({"werror": "enospc", "rerror": self.rerror_policy})
        return given({"werror": self.error_policy, "rerror": self.rerror_policy or self.error_policy})


@dataclass(kw_only=True)
class Geometry:
    """`<geometry>`: cylinders, heads and sectors as the guest's firmware is told."""

    cyls: Annotated[int, Unsigned()]
    heads: Annotated[int, Unsigned()]
    secs: Annotated[int, Unsigned()]
    trans: Literal["none", "auto", "lba"] | None = None


@dataclass(kw_only=True)
class BlockIo:
    """`<blockio>`: sizes in bytes that the guest sees."""

    logical_block_size: Annotated[int | None, Unsigned()] = None
    physical_block_size: Annotated[int | None, Unsigned()] = None


@dataclass(kw_only=True)
class Target:
    """`<target>`: the name that stands for the disk, and its bus."""

    dev: str | None = None
    bus: DiskBus | None = None
    tray: Literal["closed", "open"] | None = None
    removable: Annotated[bool | None, OnOff()] = None
    rotation_rate: Annotated[int | None, Unsigned()] = None
