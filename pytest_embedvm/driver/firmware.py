"""UEFI firmware by QEMU's descriptor files, as libvirt reads them (libvirt: qemu_firmware.c)."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.domain.host import FirmwareImage, FirmwareWish
from pytest_embedvm.errors import OperationFailed
from pytest_embedvm.logs import Log

#: Where the descriptors are; a file in a later directory hides its namesake in an earlier one.
DIRECTORIES: Final = (Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware"))


def find(
    log: Log,
    arch: str,
    machine: str,
    wish: FirmwareWish,
    directories: tuple[Path, ...] = DIRECTORIES,
) -> FirmwareImage:
    """The first UEFI image that is as WISH says, in the order of the descriptors' names.

    :param log: where a descriptor that cannot be read is reported.
    :raise OperationFailed: when there is none.
    """
    # libvirt: qemuFirmwareMatchDomain
    for descriptor in _descriptors(directories, log):
        features = set(descriptor.get("features", ()))
        if (
            _is_for(descriptor, arch, machine)
            and wish.secure_boot in (None, "secure-boot" in features)
            and wish.enrolled_keys in (None, "enrolled-keys" in features)
            and wish.stateless == (descriptor["mapping"].get("mode") == "stateless")
        ):
            return _image(descriptor["mapping"], requires_smm="requires-smm" in features)
    # libvirt: qemuFirmwareFillDomain
    raise OperationFailed("Unable to find 'efi' firmware that is compatible with the current configuration")


def _descriptors(directories: tuple[Path, ...], log: Log) -> Iterator[dict[str, Any]]:
    files = {path.name: path for directory in directories if directory.is_dir() for path in directory.glob("*.json")}
    for _, path in sorted(files.items()):
        try:
            descriptor = json.loads(path.read_bytes() or b"null")  # an empty file masks its namesake
        except (OSError, ValueError) as error:
            log.warning("firmware descriptor %s is ignored: %s", path, error)
            continue
        if isinstance(descriptor, dict) and descriptor.get("mapping", {}).get("device") == "flash":
            yield descriptor


def _is_for(descriptor: dict[str, Any], arch: str, machine: str) -> bool:
    return "uefi" in descriptor.get("interface-types", ()) and any(
        target.get("architecture") == arch
        and any(fnmatch.fnmatchcase(machine, pattern) for pattern in target.get("machines", ()))
        for target in descriptor.get("targets", ())
    )


def _image(mapping: dict[str, Any], *, requires_smm: bool) -> FirmwareImage:
    executable, template = mapping["executable"], mapping.get("nvram-template")
    return FirmwareImage(
        loader=executable["filename"],
        loader_format=executable.get("format", "raw"),
        nvram_template=template["filename"] if template else None,
        nvram_format=template.get("format", "raw") if template else "raw",
        requires_smm=requires_smm,
    )
