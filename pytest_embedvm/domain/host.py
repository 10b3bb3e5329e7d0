"""What `domain/` needs from outside itself: a Protocol, so that the room stays pure."""

from __future__ import annotations

import datetime
import uuid
from dataclasses import dataclass
from typing import Literal, Protocol

from pytest_embedvm.domain.settings import Settings
from pytest_embedvm.qemu.capabilities import Capabilities

#: What a file under the root is for: a guest-agent or other channel's socket, the log of a character device, a network
#: card's socket, a UEFI variable store, guest memory in a file, a VNC server's socket; what a TPM remembers, by the
#: uuid of its domain.
FileKind = Literal["channel", "console-log", "net", "nvram", "ram", "tpm", "vnc"]


@dataclass(frozen=True)
class FirmwareImage:
    """A firmware as the host's descriptors name it: paths of the code and of the variables' template."""

    loader: str
    nvram_template: str | None
    loader_format: str = "raw"
    nvram_format: str = "raw"
    requires_smm: bool = False


@dataclass(frozen=True)
class FirmwareWish:
    """What a firmware is to be able to do, and what not; None: either is right."""

    secure_boot: bool | None = None
    enrolled_keys: bool | None = None
    #: It keeps no variables.
    stateless: bool = False


@dataclass(frozen=True)
class Volume:
    """A volume of a storage pool: where it is, and what that is. Its format is what the domain says."""

    path: str
    type: Literal["file", "block", "dir"]


class Host(Protocol):
    """The host, as a domain that is being completed sees it."""

    @property
    def settings(self) -> Settings:
        """What the driver's configuration says about every domain."""

    def default_emulator(self, arch: str) -> str:
        """The path of the QEMU binary for ARCH.

        :raise ConfigUnsupported: when there is none.
        """

    def capabilities(self, emulator: str) -> Capabilities:
        """What EMULATOR can do.

        :raise SystemFailure: when it is not there or does not run.
        """

    def kvm_refused(self, emulator: str) -> str | None:
        """None where EMULATOR can be given `<domain type='kvm'>`; else why not, in one sentence."""

    def path(self, kind: FileKind, domain: str, item: str) -> str:
        """Where the file of this KIND that belongs to ITEM of DOMAIN lies; under the root, unless configured."""

    def firmware(self, arch: str, machine: str, wish: FirmwareWish) -> FirmwareImage:
        """The first UEFI firmware for a machine type that is as WISH says.

        :raise OperationFailed: when the host has none that fits.
        """

    def nvram_template(self, loader: str) -> str | None:
        """What the variables of the firmware at LOADER are made from, if that is configured."""

    def volume(self, pool: str, volume: str) -> Volume:
        """What the VOLUME of a storage POOL is.

        :raise NoStoragePool, NoStorageVolume: when there is no such pool or volume.
        :raise ConfigUnsupported: when the pool is not active.
        """

    def now(self) -> datetime.datetime:
        """The time in UTC."""

    def virtiofsd(self) -> str:
        """The path of virtiofsd.

        :raise ConfigUnsupported: when it is not installed.
        """

    def vsock_cid(self, wanted: int | None) -> int:
        """WANTED, or an address of AF_VSOCK that no other machine of this host has.

        :raise ConfigUnsupported: when the host has no /dev/vhost-vsock.
        """

    def new_uuid(self) -> uuid.UUID:
        """A UUID that no other domain has."""

    def new_mac(self) -> str:
        """A MAC address with libvirt's prefix for QEMU, 52:54:00."""
