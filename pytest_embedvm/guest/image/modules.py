"""The kernel modules the guest carries: what it names, with all that these depend on."""

from __future__ import annotations

import fnmatch
import gzip
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from pytest_embedvm.guest.image.decompress import Undecodable, decompress

WANTED: Final = (
    "virtio_pci", "virtio_mmio", "virtio_console", "virtio_blk", "virtio_net", "virtio_rng", "virtio_scsi",
    "virtio_balloon", "virtio_input", "vmw_vsock_virtio_transport", "vmgenid", "qemu_fw_cfg",
    "9p", "9pnet_virtio", "fuse", "virtiofs", "overlay", "loop",
    "e1000", "e1000e", "8139cp", "8139too", "af_packet", "ipv6",
    "ahci", "ata_piix", "sd_mod", "sr_mod", "sg", "nvme",
    "ext4", "xfs", "btrfs", "isofs", "vfat", "squashfs", "nls_cp437", "nls_iso8859_1", "nls_ascii", "nls_utf8",
    "xhci_pci", "ehci_pci", "uhci_hcd", "usb_storage", "uas", "usbhid", "hid_generic",
    "button", "evdev", "atkbd", "psmouse", "i6300esb", "iTCO_wdt", "pvpanic", "pvpanic_pci", "pvpanic_mmio",
    "rtc_cmos", "tpm_tis", "tpm_crb", "efivarfs", "dm_mod", "dm_crypt",
)  # fmt: skip


#: The kernel unpacks the whole archive before it starts the guest, 10 ms a MiB under TCG. What a virtio machine needs
#: is smaller than this and stays as it is: unpacking it costs more than it spares.
LARGE_BYTES: Final = 256 * 1024


@dataclass(frozen=True)
class Modules:
    """Modules chosen out of a kernel's, as files of its `/lib/modules/<release>`.

    `files` maps a path relative to that directory to the module; the indexes are there too.
    `missing` says what the kernel has neither as a module nor built in.
    """

    files: dict[str, bytes]
    missing: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Index:
    """depmod's tables of one kernel. A module's name has underscores, never hyphens.

    :raise OSError: when DIRECTORY has no modules.dep.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.paths: dict[str, str] = {}
        self.needs: dict[str, tuple[str, ...]] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, rest = line.partition(":")
            self.paths[name_of(path)] = path
            self.needs[name_of(path)] = tuple(name_of(needed) for needed in rest.split())
        self.builtin = {name_of(line) for line in self._lines("modules.builtin")}
        self.aliases = [(words[1], words[2]) for words in self._words("modules.alias") if len(words) == 3]
        self.softdeps = {
            words[1].replace("-", "_"): [word for word in words[2:] if not word.endswith(":")]
            for words in self._words("modules.softdep")
        }

    def _lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def _words(self, name: str) -> list[list[str]]:
        return [line.split() for line in self._lines(name) if not line.startswith("#")]

    def resolve(self, name: str) -> list[str]:
        """The modules that NAME stands for: itself, or those that have it as an alias."""
        plain = name.replace("-", "_")
        if plain in self.paths:
            return [plain]
        return [module for alias, module in self.aliases if fnmatch.fnmatchcase(name, alias) and module in self.paths]

    def closure(self, names: tuple[str, ...]) -> list[str]:
        """NAMES and all they depend on, hard and soft, that are modules; in the order of the kernel's modules.dep."""
        found: set[str] = set()
        ahead = [module for name in names for module in self.resolve(name)]
        while ahead:
            module = ahead.pop()
            if module in found:
                continue
            found.add(module)
            ahead += self.needs[module]
            ahead += [other for soft in self.softdeps.get(module, []) for other in self.resolve(soft)]
        return [module for module in self.paths if module in found]


def name_of(path: str) -> str:
    """`virtio_rng` for `kernel/drivers/char/hw_random/virtio-rng.ko.xz`."""
    return PurePosixPath(path.strip()).name.partition(".")[0].replace("-", "_")


def plain_path(path: str) -> str:
    """PATH without the compression's suffix."""
    return path[: path.rindex(".ko") + 3]


def pack(path: str, data: bytes) -> tuple[str, bytes]:
    """Where the module DATA of PATH lies in the guest, and as what: the large ones, seldom wanted, as gzip."""
    if len(data) < LARGE_BYTES:
        return plain_path(path), data
    return f"{plain_path(path)}.gz", gzip.compress(data, mtime=0)


def choose_modules(directory: Path, wanted: tuple[str, ...] = WANTED) -> Modules:
    """The modules WANTED of the kernel whose modules are in DIRECTORY, packed anew, and the indexes for modprobe.

    :raise OSError: when DIRECTORY is no modules directory or cannot be read.
    """
    index = Index(directory)
    carried: dict[str, bytes] = {}
    failed: dict[str, str] = {}
    for module in index.closure(wanted):
        try:
            carried[module] = decompress((directory / index.paths[module]).read_bytes())
        except Undecodable as error:
            failed[module] = str(error)
    packed = {module: pack(index.paths[module], data) for module, data in carried.items()}
    missing = (name for name in wanted if name not in index.builtin and not carried.keys() & index.resolve(name))
    tables = _indexes(index, {module: path for module, (path, _) in packed.items()})
    return Modules(dict(packed.values()) | tables, tuple(missing), tuple(sorted(set(failed.values()))))


def _indexes(index: Index, carried: dict[str, str]) -> dict[str, bytes]:
    """The tables with what the guest carries, by its path there, and no more: modprobe reads them whole each time."""
    dependencies = []
    for module, path in carried.items():
        needs = [carried[needed] for needed in index.needs[module] if needed in carried]
        dependencies.append(" ".join([f"{path}:", *needs]))
    return {
        "modules.dep": _text(dependencies),
        "modules.alias": _text([f"alias {alias} {module}" for alias, module in index.aliases if module in carried]),
        "modules.builtin": _text(sorted(f"kernel/{module}.ko" for module in index.builtin)),
    }


def _text(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()
