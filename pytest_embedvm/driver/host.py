"""The host as `domain/` sees it: this machine's QEMU, this root's paths."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import uuid
from pathlib import Path
from typing import Final

from pytest_embedvm.domain.host import FileKind, FirmwareImage, FirmwareWish, Volume
from pytest_embedvm.driver import firmware
from pytest_embedvm.driver.config.config import Config
from pytest_embedvm.driver.roots.layout import PLACES
from pytest_embedvm.driver.roots.root import Root, file_name
from pytest_embedvm.driver.storage.private import PrivateStorage
from pytest_embedvm.driver.vsock import free_cid
from pytest_embedvm.errors import ConfigUnsupported, InternalError, SystemFailure
from pytest_embedvm.qemu.accelerator import requested
from pytest_embedvm.qemu.binary import find_binary
from pytest_embedvm.qemu.cache import HostCapabilities, default_cache_dir, host_capabilities
from pytest_embedvm.qemu.capabilities import Capabilities

# libvirt: QEMU's vendor prefix, qemuDomainDefPostParse
MAC_PREFIX: Final = "52:54:00"

#: Where each kind of file lies below the root, and how it ends.
_PLACES: Final[dict[FileKind, tuple[tuple[str, ...], str]]] = {
    "channel": (("lib", "qemu", "channel", "target"), ""),
    "console-log": (("log", "qemu", "console"), ".log"),
    "net": (("lib", "qemu", "net"), ".sock"),
    "nvram": (("lib", "qemu", "nvram"), ""),
    "ram": (("lib", "qemu", "ram"), ""),
    "vnc": (("lib", "qemu", "vnc"), ".sock"),
}
#: What is made when it is wanted, and not by the domain's name.
_OWN_PLACES: Final[dict[FileKind, tuple[tuple[str, ...], str]]] = {"tpm": (PLACES["swtpm-state"], "")}

#: Where distributions put it; it is in nobody's PATH.
_VIRTIOFSD: Final = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")


class EmbedHost:
    """Implements `domain.host.Host`. `prepare` asks QEMU; all else answers from memory."""

    def __init__(self, root: Root, config: Config, storage: PrivateStorage) -> None:
        self._root = root
        self._storage = storage
        self.settings = config
        self._probed: dict[str, HostCapabilities] = {}

    async def prepare(self, emulator: str) -> HostCapabilities:
        """Know what EMULATOR can do, from the cache or by asking it.

        :raise SystemFailure: when it is not there or does not run.
        """
        if emulator not in self._probed:
            self._probed[emulator] = await host_capabilities(
                Path(emulator), default_cache_dir(), requested(), self._root.log
            )
        return self._probed[emulator]

    def default_emulator(self, arch: str) -> str:
        # libvirt: virQEMUCapsGetDefaultEmulator
        try:
            return str(find_binary(arch))
        except SystemFailure as error:
            raise ConfigUnsupported(f"No emulator found for arch '{arch}': {error.detail}") from None

    def capabilities(self, emulator: str) -> Capabilities:
        return self._known(emulator).capabilities

    def _known(self, emulator: str) -> HostCapabilities:
        try:
            return self._probed[emulator]
        except KeyError:
            raise InternalError(f"emulator '{emulator}' was not asked for its capabilities") from None

    def kvm_refused(self, emulator: str) -> str | None:
        accelerator = self._known(emulator).accelerator
        return None if accelerator.name == "kvm" else accelerator.reason

    def path(self, kind: FileKind, domain: str, item: str) -> str:
        above, suffix = {**_PLACES, **_OWN_PLACES}[kind]
        directory = self._root.path.joinpath(*above)
        if kind == "ram" and self.settings.memory_backing_dir:
            # libvirt: virQEMUDriverConfigLoadMemoryEntry; roots share it, so each has a directory of its own
            device, inode = self._root.identity
            directory = Path(self.settings.memory_backing_dir, "libvirt", "qemu", f"embed-{device}-{inode}")
        return str(directory / file_name(domain) / (file_name(item) + suffix))

    def make_places(self, domain: str) -> None:
        """Make the directories that `path` names for DOMAIN below the root.

        :raise SystemFailure: when one cannot be made.
        """
        for above, _ in _PLACES.values():
            self._root.directory(*above, file_name(domain))

    def clear_places(self, domain: str) -> None:
        """Remove those of them that hold nothing: DOMAIN no longer runs."""
        for above, _ in _PLACES.values():
            with contextlib.suppress(OSError):  # a log or a variable store stays in it, or it is gone
                self._root.path.joinpath(*above, file_name(domain)).rmdir()

    def firmware(self, arch: str, machine: str, wish: FirmwareWish) -> FirmwareImage:
        return firmware.find(self._root.log, arch, machine, wish)

    def nvram_template(self, loader: str) -> str | None:
        pairs = dict(pair.split(":") for pair in self.settings.nvram)
        return pairs.get(loader)

    def virtiofsd(self) -> str:
        for path in _VIRTIOFSD:
            if os.access(path, os.X_OK):
                return path
        raise ConfigUnsupported(f"virtiofsd is not installed: it is none of {', '.join(_VIRTIOFSD)}")

    def volume(self, pool: str, volume: str) -> Volume:
        return self._storage.volume(pool, volume)

    def vsock_cid(self, wanted: int | None) -> int:
        return free_cid(wanted)

    def now(self) -> datetime.datetime:
        return datetime.datetime.now(datetime.UTC)

    def new_uuid(self) -> uuid.UUID:
        return uuid.uuid4()

    def new_mac(self) -> str:
        return random_mac()


def random_mac() -> str:
    """A MAC address with libvirt's prefix for QEMU."""
    return ":".join([MAC_PREFIX, *(f"{byte:02x}" for byte in secrets.token_bytes(3))])
