"""Secrets on their way to QEMU: encrypted by a key of the machine's own, which stands in a file only QEMU reads."""

from __future__ import annotations

import base64
import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import write_atomically
from pytest_embedvm.qemu.parts import MASTER_KEY, ObjectPart, Part, Password, SecretPart, SecretRef

# libvirt: QEMU_DOMAIN_MASTER_KEY_LEN, qemuDomainMasterKeyCreate
FILE: Final = "master-key.aes"
KEY_BYTES: Final = 32
IV_BYTES: Final = 16
BLOCK_BITS: Final = 128

#: What was asked of the secret driver, by what asks for it.
Values: TypeAlias = Mapping[SecretRef, bytearray]


class Source(Protocol):
    """Who knows the values of secrets: the root's own driver, or the host's."""

    async def find_value(self, wanted: SecretRef) -> bytearray:
        """The value of WANTED, private or not; a copy that the caller wipes.

        :raise NoSecret: when there is no such secret, or it has no value.
        :raise InvalidArgument: when it is for something else.
        """


async def values(parts: Iterable[Part], source: Source) -> dict[SecretRef, bytearray]:
    """What PARTS need of SOURCE.

    :raise NoSecret, InvalidArgument: naming what is not there.
    """
    wanted = {part.value for part in parts if isinstance(part, SecretPart) and isinstance(part.value, SecretRef)}
    return {reference: await source.find_value(reference) for reference in wanted}


def wipe(found: Values) -> None:
    """Overwrite what `values` returned."""
    for value in found.values():
        value[:] = bytes(len(value))


def seal(parts: tuple[Part, ...], found: Values, home: Path) -> tuple[Part, ...]:
    """PARTS as QEMU is told them, each secret of them encrypted; the key comes first if QEMU does not have it yet.

    :param home: the machine's own directory, which holds the key.
    :raise SystemFailure: when the key cannot be written or read.
    """
    if not any(isinstance(part, SecretPart) for part in parts):
        return parts
    path = home / FILE
    made = not path.exists()
    key = _make(path) if made else _read(path)
    return tuple(_sealed(parts, found, key, path if made else None))


def is_key(part: Part) -> bool:
    """Whether PART is what all secrets of a machine need, and stays when they go."""
    return isinstance(part, ObjectPart) and part.props["id"] == MASTER_KEY


def forget_key(home: Path) -> None:
    """QEMU does not have the key that is in HOME."""
    (home / FILE).unlink(missing_ok=True)


def _sealed(parts: Iterable[Part], found: Values, key: bytes, path: Path | None) -> Iterator[Part]:
    for part in parts:
        if not isinstance(part, SecretPart):
            yield part
            continue
        if path is not None:
            # libvirt: qemuBuildMasterKeyCommandLine
            yield ObjectPart({"qom-type": "secret", "id": MASTER_KEY, "format": "raw", "file": str(path)})
            path = None
        value = part.value.text.encode() if isinstance(part.value, Password) else bytes(found[part.value])
        iv = os.urandom(IV_BYTES)
        yield part.sealed(_base64(_encrypt(key, iv, value)), _base64(iv))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _encrypt(key: bytes, iv: bytes, value: bytes) -> bytes:
    # libvirt: virCryptoEncryptData; loaded late, since it takes longer than all of the driver
    ciphers: Any = importlib.import_module("cryptography.hazmat.primitives.ciphers")
    padding: Any = importlib.import_module("cryptography.hazmat.primitives.padding")
    pad = padding.PKCS7(BLOCK_BITS).padder()
    padded = pad.update(value) + pad.finalize()
    encryptor = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CBC(iv)).encryptor()
    return bytes(encryptor.update(padded) + encryptor.finalize())


def _make(path: Path) -> bytes:
    key = os.urandom(KEY_BYTES)
    try:
        write_atomically(path, key, sync=False)
    except OSError as error:
        # libvirt: qemuDomainWriteMasterKeyFile
        raise SystemFailure(
            f"failed to open domain master key file for write: '{path}': {error.strerror}", origin=ErrorDomain.QEMU
        ) from error
    return key


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        # libvirt: qemuDomainMasterKeyReadFile
        raise SystemFailure(
            f"domain master key file '{path}' cannot be read: {error.strerror}", origin=ErrorDomain.QEMU
        ) from error
