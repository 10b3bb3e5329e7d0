"""A host for the pure floors: real capabilities, read off QEMU 7.2 once, and predictable names."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import uuid
from functools import cache
from pathlib import Path

from pytest_embedvm.domain.host import FileKind, FirmwareImage, FirmwareWish, Volume
from pytest_embedvm.domain.settings import Settings
from pytest_embedvm.errors import ConfigUnsupported, OperationFailed
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import Card

EMULATOR = "/usr/bin/qemu-system-x86_64"
#: Without the sandbox, which would stand in every golden command line.
SETTINGS = Settings(seccomp_sandbox=0)


@cache
def capabilities() -> Capabilities:
    return Capabilities.from_json(json.loads(Path(__file__).with_name("qemu-7.2.json").read_text()))


class FakeHost:
    """Everything `domain/` asks of a host, answered the same way each time."""

    def __init__(self, *, kvm_refused: str | None = "the fake host has none", settings: Settings = SETTINGS) -> None:
        self.settings = settings
        self._kvm_refused = kvm_refused
        self._macs = itertools.count(1)
        self._uuids = itertools.count(1)

    def default_emulator(self, arch: str) -> str:
        if arch != "x86_64":
            raise ConfigUnsupported(f"No emulator found for arch '{arch}'")
        return EMULATOR

    def capabilities(self, emulator: str) -> Capabilities:
        return capabilities()

    def kvm_refused(self, emulator: str) -> str | None:
        return self._kvm_refused

    def path(self, kind: FileKind, domain: str, item: str) -> str:
        return f"/R/{kind}/{domain}/{item}"

    def firmware(self, arch: str, machine: str, wish: FirmwareWish) -> FirmwareImage:
        if arch != "x86_64":
            raise OperationFailed("Unable to find 'efi' firmware that is compatible with the current configuration")
        code = "secboot.fd" if wish.secure_boot else "code.fd"
        variables = "vars.fd" if not wish.secure_boot or wish.enrolled_keys is False else "enrolled.fd"
        return FirmwareImage(
            f"/usr/share/OVMF/{code}", f"/usr/share/OVMF/{variables}", requires_smm=bool(wish.secure_boot)
        )

    def virtiofsd(self) -> str:
        return "/usr/lib/qemu/virtiofsd"

    def nvram_template(self, loader: str) -> str | None:
        return "/usr/share/OVMF/vars.fd" if loader == "/configured.fd" else None

    def volume(self, pool: str, volume: str) -> Volume:
        if pool == "inactive":
            raise ConfigUnsupported(f"storage pool '{pool}' containing volume '{volume}' is not active")
        return Volume(f"/R/{pool}/{volume}", "file")

    def now(self) -> datetime.datetime:
        return datetime.datetime(2019, 12, 2, 14, 30, tzinfo=datetime.UTC)

    def vsock_cid(self, wanted: int | None) -> int:
        return wanted or 3

    def new_uuid(self) -> uuid.UUID:
        return uuid.UUID(int=next(self._uuids))

    def new_mac(self) -> str:
        return f"52:54:00:00:00:{next(self._macs):02x}"


def no_network(card: Card, stack: contextlib.AsyncExitStack) -> None:
    """A network that nobody is on: the card has no carrier."""
