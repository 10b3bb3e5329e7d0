"""Where the values of a root's secrets are kept: encrypted, each in a file of its own, by a key of the root's."""

from __future__ import annotations

import base64
import importlib
import os
import re
import uuid
from pathlib import Path
from typing import Any, Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.errors import InternalError, SystemFailure
from pytest_embedvm.files import write_atomically

#: The root's key, and the ending of what it encrypts.
KEY: Final = "master-key"
SUFFIX: Final = ".value"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12

#: How a password begins that is written into a file of the root: longer than any that a display can have.
CONCEALED: Final = "concealed:"


_CONCEALED: Final = re.compile(rf""" passwd=(['"]){CONCEALED}[^'"]*\1""")


def without_passwords(domain: str) -> str:
    """The XML of a DOMAIN as it stands in a file of a root, without what is concealed in it."""
    return _CONCEALED.sub("", domain)


class Vault:
    """Values on disk, by the uuids of their secrets. No value stays in memory here."""

    def __init__(self, root: Root) -> None:
        self._root = root

    def store(self, number: uuid.UUID, value: bytes) -> None:
        """Keep VALUE, instead of one that was there.

        :raise SystemFailure: when it cannot be written.
        """
        _write(self._path(number), self._seal(value, number.bytes))

    def load(self, number: uuid.UUID) -> bytearray | None:
        """The value; None if there is none.

        :raise SystemFailure: when it cannot be read.
        :raise InternalError: when it is damaged, or was encrypted in another root.
        """
        path = self._path(number)
        try:
            sealed = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SystemFailure(f"cannot read '{path}': {error.strerror}", origin=ErrorDomain.SECRET) from error
        return bytearray(self._open(sealed, number.bytes, f"'{path}'"))

    def remove(self, number: uuid.UUID) -> None:
        """Have no value any more."""
        self._path(number).unlink(missing_ok=True)

    def conceal(self, password: str) -> str:
        """PASSWORD as a text that says nothing outside this root."""
        return CONCEALED + base64.b64encode(self._seal(password.encode(), None)).decode("ascii")

    def reveal(self, text: str) -> str:
        """What `conceal` was given; any other TEXT as it is.

        :raise InternalError: when it was concealed in another root.
        """
        if not text.startswith(CONCEALED):
            return text
        sealed = base64.b64decode(text.removeprefix(CONCEALED))
        opened = self._open(sealed, None, "a password in a domain's definition")
        return opened.decode()

    def _seal(self, value: bytes, about: bytes | None) -> bytes:
        """VALUE, encrypted; ABOUT has to be said again to open it."""
        nonce = os.urandom(NONCE_BYTES)
        encrypted: bytes = self._cipher(self._key(make=True)).encrypt(nonce, value, about)
        return nonce + encrypted

    def _open(self, sealed: bytes, about: bytes | None, what: str) -> bytes:
        invalid = importlib.import_module("cryptography.exceptions").InvalidTag
        try:
            cipher = self._cipher(self._key(make=False))
            return bytes(cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], about))
        except (invalid, ValueError):
            raise InternalError(
                f"cannot decrypt {what} with the key of its root: one of them is damaged", origin=ErrorDomain.SECRET
            ) from None

    def _path(self, number: uuid.UUID) -> Path:
        return self._root.place("secrets") / f"{number}{SUFFIX}"

    def _key(self, *, make: bool) -> bytes:
        path = self._root.place("secret-key") / KEY
        try:
            return path.read_bytes()
        except FileNotFoundError:
            if not make:
                return b""
            key = os.urandom(KEY_BYTES)
            _write(path, key)
            return key
        except OSError as error:
            raise SystemFailure(f"cannot read '{path}': {error.strerror}", origin=ErrorDomain.SECRET) from error

    @staticmethod
    def _cipher(key: bytes) -> Any:
        # late: it takes longer to load than all of the driver, and few roots have secrets
        return importlib.import_module("cryptography.hazmat.primitives.ciphers.aead").AESGCM(key)


def _write(path: Path, data: bytes) -> None:
    try:
        write_atomically(path, data)
    except OSError as error:
        raise SystemFailure(f"cannot write '{path}': {error.strerror}", origin=ErrorDomain.SECRET) from error
