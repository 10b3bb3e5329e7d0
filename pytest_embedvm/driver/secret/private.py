"""The private secret driver of a root: its secrets, and who may know their values."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain, SecretUsageType
from pytest_embedvm.constants import SecretEventLifecycleType as Happened
from pytest_embedvm.driver.hub import EventHub
from pytest_embedvm.driver.roots.root import Root
from pytest_embedvm.driver.secret.events import SecretLifecycle, SecretValueChanged
from pytest_embedvm.driver.secret.vault import Vault
from pytest_embedvm.errors import EmbedError, InternalError, InvalidArgument, InvalidSecret, NoSecret, SystemFailure
from pytest_embedvm.files import set_aside, write_atomically
from pytest_embedvm.qemu.parts import SecretRef
from pytest_embedvm.secret import definition
from pytest_embedvm.secret.definition import Secret

SECRET: Final = ErrorDomain.SECRET


class LiveSecret:
    """A secret of a root. An ephemeral one has its value here, the others in the root's vault."""

    def __init__(self, secret: Secret, number: uuid.UUID) -> None:
        self.secret = secret
        self.uuid = number
        self._held: bytearray | None = None

    @property
    def name(self) -> str:
        """What tells it from the others: its uuid."""
        return str(self.uuid)

    def hold(self, value: bytes | bytearray | None) -> None:
        """Keep VALUE in memory, and leave nothing there of the one before."""
        if self._held is not None:
            wipe(self._held)
        self._held = None if value is None else bytearray(value)

    @property
    def held(self) -> bytearray | None:
        """A copy of what is in memory."""
        return None if self._held is None else bytearray(self._held)

    @property
    def xml(self) -> str:
        return definition.format(self.secret)


def wipe(value: bytearray) -> None:
    """Overwrite VALUE: Python keeps no other copy of a bytearray."""
    value[:] = bytes(len(value))


class PrivateSecrets:
    """Every secret of one root; a `Subdriver`. All methods run on the loop thread."""

    name = "secret"

    def __init__(self, events: EventHub) -> None:
        self._events = events
        self._secrets: dict[uuid.UUID, LiveSecret] = {}
        self._at: tuple[Root, Vault] | None = None

    async def initialize(self, *, privileged: bool, root: Root) -> None:
        """Take up the secrets that are defined in ROOT."""
        self._at = root, Vault(root)
        folder = root.path.joinpath("etc", "secrets")
        for path in sorted(folder.glob("*.xml")) if folder.is_dir() else ():
            self._load(path)

    def _load(self, path: Path) -> None:
        try:
            secret = definition.parse(path.read_text("utf-8"))
            if secret.uuid is None or path.stem != str(secret.uuid):
                # libvirt: virSecretLoadValidateUUID
                raise InternalError(f"<uuid> does not match secret file name '{path.name}'", origin=SECRET)
        except (EmbedError, OSError, UnicodeError) as error:
            self._set_aside(path, error)
        else:
            self._secrets[secret.uuid] = LiveSecret(secret, secret.uuid)

    def _set_aside(self, path: Path, why: Exception) -> None:
        self._root.log.error("secret definition %s: %s; it is kept as %s", path, why, set_aside(path))

    async def cleanup(self) -> None:
        """Have no secret any more; what was in memory is overwritten."""
        for secret in self:
            secret.hold(None)
        self._secrets.clear()

    def __iter__(self) -> Iterator[LiveSecret]:
        return iter(tuple(self._secrets.values()))

    def by_uuid(self, wanted: uuid.UUID) -> LiveSecret:
        """:raise NoSecret: when none has this uuid."""
        try:
            return self._secrets[wanted]
        except KeyError:
            # libvirt: secretLookupByUUID
            raise NoSecret(f"no secret with matching uuid '{wanted}'") from None

    def by_usage(self, kind: int, usage: str) -> LiveSecret:
        """:raise NoSecret: when none is for this."""
        for secret in self:
            # libvirt: virSecretObjSearchName
            if secret.secret.usage_type == kind != SecretUsageType.NONE and secret.secret.usage_id == usage:
                return secret
        # libvirt: secretLookupByUsage
        raise NoSecret(f"no secret with matching usage '{usage}'")

    def define(self, xml: str, *, validate: bool = False) -> LiveSecret:
        """Keep the secret that XML describes, or change the one with its uuid, which keeps its value.

        :raise XMLError: and others, as `definition.parse`.
        :raise InternalError: when another secret is for the same, or this one is for something else.
        :raise SystemFailure: when it cannot be written.
        """
        described = definition.parse(xml, validate=validate)
        known = self._claim(described)
        if known is None:
            described.uuid = described.uuid or uuid.uuid4()
            known = LiveSecret(described, described.uuid)
            self._write(known)
            self._secrets[known.uuid] = known
        else:
            self._change(known, described)
        self._events.emit(known, SecretLifecycle(Happened.DEFINED))
        return known

    def _claim(self, described: Secret) -> LiveSecret | None:
        """The secret that DESCRIBED already is."""
        # libvirt: virSecretObjListAdd
        known = self._secrets.get(described.uuid) if described.uuid else None
        if known is not None:
            if described.usage_id != known.secret.usage_id:
                raise InternalError(
                    f"a secret with UUID {known.uuid} is already defined for use with {known.secret.usage_id}",
                    origin=SECRET,
                )
            if known.secret.private and not described.private:
                raise InternalError("cannot change private flag on existing secret", origin=SECRET)
            return known
        with contextlib.suppress(NoSecret):
            other = self.by_usage(described.usage_type, described.usage_id)
            raise InternalError(
                f"a secret with UUID {other.uuid} already defined for use with {described.usage_id}", origin=SECRET
            )
        return None

    def _change(self, known: LiveSecret, described: Secret) -> None:
        # libvirt: secretDefineXML
        value, before = self._value(known), known.secret
        known.secret = described
        try:
            self._write(known)
            self._keep(known, value)
        except EmbedError:
            known.secret = before
            raise
        finally:
            if value is not None:
                wipe(value)

    def undefine(self, secret: LiveSecret) -> None:
        """Forget SECRET and its value.

        :raise SystemFailure: when its file cannot be removed.
        """
        try:
            self._remove(secret)
        except OSError as error:
            # libvirt: virSecretObjDeleteConfig
            raise SystemFailure(f"cannot unlink '{self._path(secret)}': {error.strerror}", origin=SECRET) from error
        secret.hold(None)
        del self._secrets[secret.uuid]
        self._events.emit(secret, SecretLifecycle(Happened.UNDEFINED))

    def set_value(self, secret: LiveSecret, value: bytes) -> None:
        """Give SECRET its value; an empty one is none.

        :raise SystemFailure: when it cannot be written.
        """
        self._keep(secret, bytearray(value))
        self._events.emit(secret, SecretValueChanged())

    def value(self, secret: LiveSecret) -> bytes:
        """The value, for a caller of the API.

        :raise InvalidSecret: when it is private.
        :raise NoSecret: when there is none.
        """
        if secret.secret.private:
            # libvirt: secretGetValue
            raise InvalidSecret("secret is private")
        return bytes(self.value_for_machine(secret))

    def value_for_machine(self, secret: LiveSecret) -> bytearray:
        """The value, private or not; a copy that the caller wipes.

        :raise NoSecret: when there is none.
        :raise SystemFailure, InternalError: when it cannot be read.
        """
        value = self._value(secret)
        if not value:
            # libvirt: virSecretObjGetValue
            raise NoSecret(f"secret '{secret.uuid}' does not have a value")
        return value

    async def find_value(self, wanted: SecretRef) -> bytearray:
        """The value that a machine needs; a copy that the caller wipes.

        :raise NoSecret: when there is no such secret, or it has no value.
        :raise InvalidArgument: when it is for something else.
        """
        # libvirt: virSecretGetSecretString
        kind = SecretUsageType[wanted.kind.upper()]
        if wanted.uuid is None:
            return self.value_for_machine(self.by_usage(kind, wanted.usage or ""))
        secret = self.by_uuid(uuid.UUID(wanted.uuid))
        require_kind(secret.secret.usage_type, wanted)
        return self.value_for_machine(secret)

    def _value(self, secret: LiveSecret) -> bytearray | None:
        return secret.held if secret.secret.ephemeral else self._vault.load(secret.uuid)

    def _keep(self, secret: LiveSecret, value: bytearray | None) -> None:
        """Have VALUE where SECRET is to have it, and nowhere else."""
        ephemeral = secret.secret.ephemeral
        if value and not ephemeral:
            self._vault.store(secret.uuid, bytes(value))
        else:
            self._vault.remove(secret.uuid)
        secret.hold(value if ephemeral else None)

    def _write(self, secret: LiveSecret) -> None:
        path = self._path(secret)
        try:
            if secret.secret.ephemeral:
                path.unlink(missing_ok=True)
            else:
                write_atomically(path, secret.xml.encode())
        except OSError as error:
            raise SystemFailure(f"cannot write '{path}': {error.strerror}", origin=SECRET) from error

    def _remove(self, secret: LiveSecret) -> None:
        self._path(secret).unlink(missing_ok=True)
        self._vault.remove(secret.uuid)

    def _path(self, secret: LiveSecret) -> Path:
        return self._root.place("secrets") / f"{secret.uuid}.xml"

    @property
    def _root(self) -> Root:
        return self._require()[0]

    @property
    def _vault(self) -> Vault:
        return self._require()[1]

    def _require(self) -> tuple[Root, Vault]:
        if self._at is None:
            raise InternalError("the secret driver has no root yet", origin=SECRET)
        return self._at


def require_kind(found: int, wanted: SecretRef) -> None:
    """Return if a secret for FOUND, a SecretUsageType, may be what WANTED asks for.

    :raise InvalidArgument: when it is for something else.
    """
    # libvirt: virSecretGetSecretString
    if found not in (SecretUsageType.NONE, SecretUsageType[wanted.kind.upper()]):
        raise InvalidArgument(
            f"secret with uuid {wanted.uuid} is of type '{SecretUsageType(found).name.lower()}' not expected "
            f"'{wanted.kind}' type",
            origin=ErrorDomain.NONE,
        )
