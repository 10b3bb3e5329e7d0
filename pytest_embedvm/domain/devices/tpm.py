"""`<tpm>`: a Trusted Platform Module, emulated by swtpm, somebody else's, or the host's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.errors import ConfigUnsupported, InternalError, XMLError
from pytest_embedvm.qemu.parts import (
    Connect,
    Descriptor,
    DevicePart,
    KeyvalPart,
    OpenFile,
    Part,
    Request,
    SecretRef,
    Swtpm,
)
from pytest_embedvm.xml.mapping import At, Present
from pytest_embedvm.xml.scalars import Refusal, Scalar, Where, YesNo

#: libvirt: VIR_DOMAIN_TPM_DEFAULT_DEVICE
DEVICE: Final = "/dev/tpm0"
#: QEMU's name for the way to the emulator. libvirt: qemuBuildTPMBackendStr
CHARDEV: Final = "chrtpm"
#: libvirt: qemuTPMEmulatorStorageBuildPath
STATES: Final = {"1.2": "tpm1.2", "2.0": "tpm2"}
#: libvirt: virTPMCreateCancelPath
CANCEL: Final = "/sys/class/tpm/{}/device/cancel"


class _SecretUuid(Scalar[uuid.UUID]):
    def read(self, text: str, where: Where) -> uuid.UUID:
        try:
            return uuid.UUID(text)
        except ValueError:
            raise InternalError(f"Unable to parse secret uuid '{text}'", origin=ErrorDomain.DOMAIN) from None

    def write(self, value: uuid.UUID) -> str:
        return str(value)


@dataclass(kw_only=True)
class PcrBanks:
    """`<active_pcr_banks>`: the hashes in which a TPM 2.0 keeps its registers."""

    sha1: Annotated[bool, Present()] = False
    sha256: Annotated[bool, Present()] = False
    sha384: Annotated[bool, Present()] = False
    sha512: Annotated[bool, Present()] = False

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name in ("sha1", "sha256", "sha384", "sha512") if getattr(self, name))


@dataclass(kw_only=True)
class Backend:
    """`<backend>`; each type has attributes of its own, and the others' are dropped."""

    type: Literal["passthrough", "emulator", "external"]
    version: Literal["1.2", "2.0"] | None = None
    persistent_state: Annotated[
        bool | None,
        YesNo(refusal=Refusal("Invalid persistent_state value, either 'yes' or 'no'", InternalError)),
    ] = None
    device: Annotated[str | None, At("device/@path")] = None
    source_type: Annotated[Literal["unix"] | None, At("source/@type")] = None
    source_mode: Annotated[Literal["connect"] | None, At("source/@mode")] = None
    source_path: Annotated[str | None, At("source/@path")] = None
    secret: Annotated[uuid.UUID | None, At("encryption/@secret"), _SecretUuid()] = None
    active_pcr_banks: PcrBanks | None = None

    def tidy(self) -> None:
        """Drop what the type has no use for, as libvirt does when it reads."""
        # libvirt: virDomainTPMDefParseXML
        if self.type != "emulator":
            self.version = self.secret = self.active_pcr_banks = None
        if not self.persistent_state or self.type != "emulator":
            self.persistent_state = None
        if self.active_pcr_banks and not self.active_pcr_banks.names:
            self.active_pcr_banks = None
        if self.type == "passthrough":
            self.device = self.device or DEVICE
        else:
            self.device = None
        if self.type != "external":
            self.source_type = self.source_mode = self.source_path = None


@dataclass(kw_only=True)
class Tpm(Device):
    alias_prefix: ClassVar[str] = "tpm"

    model: Literal["tpm-tis", "tpm-crb", "tpm-spapr", "spapr-tpm-proxy"] | None = None
    backend: Backend | None = None

    def complete(self, context: Context) -> None:
        # libvirt: qemuDomainTPMDefPostParse
        self.model = self.model or "tpm-tis"
        backend = self._backend
        backend.tidy()
        if backend.type == "emulator" and backend.version is None:
            backend.version = "2.0" if self.model == "tpm-crb" else "1.2"

    def check(self, context: Context) -> None:
        # libvirt: virDomainTPMDevValidate, qemuValidateDomainDeviceDefTPM, qemuValidateDomainDefTPMs
        backend = self._backend
        if backend.active_pcr_banks and backend.version != "2.0":
            raise XMLError("<active_pcr_banks/> requires TPM version '2.0'", origin=ErrorDomain.DOMAIN)
        if backend.type == "external" and not (backend.source_type and backend.source_path):
            raise XMLError("missing external TPM backend type", origin=ErrorDomain.DOMAIN)
        if backend.version == "1.2" and self.model == "tpm-crb":
            raise _refused(f"Unsupported interface '{self.model}' for TPM 1.2")
        if not context.capabilities.has_device(self.model or ""):
            emulator = context.domain.devices.emulator
            raise _refused(f"The QEMU executable {emulator} does not support TPM model {self.model}")
        if sum(isinstance(device, Tpm) for device in context.domain.devices.all) > 1:
            raise _refused("only a single TPM non-proxy device is supported")

    @property
    def _backend(self) -> Backend:
        if self.backend is None:
            raise XMLError("missing TPM device backend", origin=ErrorDomain.DOMAIN)
        return self.backend

    @property
    def keeps_state(self) -> bool:
        return self.backend is not None and bool(self.backend.persistent_state)

    @property
    def has_firmware_log(self) -> bool:
        return True

    def clone_obstacle(self) -> str | None:
        if self.backend is None or self.backend.type == "emulator":
            return None
        return f"a TPM of type '{self.backend.type}' is one thing of the host's"

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildTPMBackendStr, qemuBuildTPMDevCmd; there the -chardev is told a path
        backend = self._backend
        if backend.type == "passthrough":
            yield from self._passthrough(backend.device or DEVICE)
        else:
            opens = self._emulator(context, backend)
            yield KeyvalPart("-chardev", "socket", {"id": CHARDEV, "fd": Descriptor(CHARDEV, opens)})
            yield KeyvalPart("-tpmdev", "emulator", {"id": f"tpm-{self.id}", "chardev": CHARDEV})
        yield DevicePart({"driver": self.model, "tpmdev": f"tpm-{self.id}", "id": self.id} | self.place(context))

    def _emulator(self, context: Context, backend: Backend) -> Request:
        if backend.type == "external":
            return Connect(backend.source_path or "")
        version = backend.version or "2.0"
        return Swtpm(
            f"swtpm of {self.id}",
            version,
            context.host.path("tpm", str(context.domain.uuid), STATES[version]),
            backend.active_pcr_banks.names if backend.active_pcr_banks else (),
            SecretRef("vtpm", str(backend.secret), None) if backend.secret else None,
        )

    def _passthrough(self, device: str) -> Iterable[Part]:
        files = {
            "tpm": OpenFile(device, write=True, fault="Could not open TPM device {}"),
            "cancel": OpenFile(CANCEL.format(device.rpartition("/")[2]), write=True, otherwise="/dev/null"),
        }
        for number, (name, opens) in enumerate(files.items()):
            descriptor = Descriptor(f"{self.id}-{name}", opens)
            yield KeyvalPart("-add-fd", "", {"set": number, "fd": descriptor, "opaque": descriptor.name})
        paths = {"path": "/dev/fdset/0", "cancel-path": "/dev/fdset/1"}
        yield KeyvalPart("-tpmdev", "passthrough", {"id": f"tpm-{self.id}", **paths})


def _refused(sentence: str) -> ConfigUnsupported:
    return ConfigUnsupported(sentence, origin=ErrorDomain.QEMU)
