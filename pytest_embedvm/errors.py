"""Errors by meaning, below the libvirt face.

Every floor below `api/` raises a subclass of `EmbedError`; the one thread crossing turns it into a
`libvirtError` with the same code, error domain and sentence. The sentences are libvirt's own
(libvirt: src/util/virerror.c, virErrorMsgStrings), so that code which matches them keeps working.
"""

from __future__ import annotations

from typing import ClassVar

from pytest_embedvm.constants import ErrorDomain, ErrorNumber


class EmbedError(Exception):
    """Base of all errors of this project.

    `detail` goes into the class's sentence. `origin` is the libvirt subsystem that would have
    raised it (`libvirtError.get_error_domain()`); each class has a default.
    """

    code: ErrorNumber = ErrorNumber.INTERNAL_ERROR
    sentence: ClassVar[str] = "internal error: {}"
    default_origin: ClassVar[ErrorDomain] = ErrorDomain.QEMU

    def __init__(self, detail: str, *, origin: ErrorDomain | None = None) -> None:
        self.detail = detail
        self.origin = self.default_origin if origin is None else origin
        super().__init__(self.message)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.detail, self.origin))

    @property
    def message(self) -> str:
        """The whole sentence, as `libvirtError.get_error_message()` returns it."""
        return self.sentence.format(self.detail)


def _rebuild(cls: type[EmbedError], detail: str, origin: ErrorDomain) -> EmbedError:
    return cls(detail, origin=origin)


class InternalError(EmbedError):
    """Something that should work did not: QEMU exited, or answered what nobody expects."""


class SystemFailure(EmbedError):
    """The operating system refused: a file, a socket, a process."""

    code = ErrorNumber.SYSTEM_ERROR
    sentence = "{}"


class XMLSyntaxError(EmbedError):
    """The text is no well-formed XML; the detail carries document, line, text and column."""

    code = ErrorNumber.XML_DETAIL
    sentence = "{}"
    default_origin = ErrorDomain.DOMAIN


class XMLError(EmbedError):
    """The XML is well formed, and an element or a value in it is not valid."""

    code = ErrorNumber.XML_ERROR
    sentence = "XML error: {}"
    default_origin = ErrorDomain.XML


class XMLSchemaError(EmbedError):
    """The XML holds what libvirt's schema does not know, and the caller asked for validation."""

    code = ErrorNumber.XML_INVALID_SCHEMA
    sentence = "XML document failed to validate against schema: {}"
    default_origin = ErrorDomain.XML


class ConfigUnsupported(EmbedError):
    """What the domain asks for is understood and cannot be given."""

    code = ErrorNumber.CONFIG_UNSUPPORTED
    sentence = "unsupported configuration: {}"
    default_origin = ErrorDomain.DOMAIN


class ConfigSyntax(EmbedError):
    """A configuration file, or a key in it, is not right; the detail begins with the file and the line."""

    code = ErrorNumber.CONF_SYNTAX
    sentence = "configuration file syntax error: {}"
    default_origin = ErrorDomain.CONF


class MissingName(EmbedError):
    """The XML has no name, or an empty one. The detail is not part of the sentence."""

    code = ErrorNumber.NO_NAME
    sentence = "missing name information"
    default_origin = ErrorDomain.DOMAIN


class MissingSource(EmbedError):
    """A disk needs a source and has none; the detail is its target."""

    code = ErrorNumber.NO_SOURCE
    sentence = "missing source information for device {}"
    default_origin = ErrorDomain.DOMAIN


class MissingTarget(EmbedError):
    """A disk says nowhere under which name the guest sees it; the detail is its source."""

    code = ErrorNumber.NO_TARGET
    sentence = "missing target information for device {}"
    default_origin = ErrorDomain.DOMAIN


class NoDevice(EmbedError):
    """The domain has no such device."""

    code = ErrorNumber.DEVICE_MISSING
    sentence = "device not found: {}"


class InvalidArgument(EmbedError):
    """An argument of a call is out of its range."""

    code = ErrorNumber.INVALID_ARG
    sentence = "invalid argument: {}"


class NumericalOverflow(EmbedError):
    """A number is larger than libvirt's arithmetic can hold."""

    code = ErrorNumber.OVERFLOW
    sentence = "numerical overflow: {}"


class InvalidCall(EmbedError):
    """An argument that libvirt's public layer refuses; the detail is the whole sentence."""

    code = ErrorNumber.INVALID_ARG
    sentence = "{}"
    default_origin = ErrorDomain.DOMAIN


class InvalidConnection(EmbedError):
    """The connection is closed, or belongs to another process; the detail names the call."""

    code = ErrorNumber.INVALID_CONN
    sentence = "invalid connection pointer in {}"
    default_origin = ErrorDomain.NONE


class NoConnect(EmbedError):
    """No driver takes the URI."""

    code = ErrorNumber.NO_CONNECT
    sentence = "no connection driver available for {}"
    default_origin = ErrorDomain.NONE


class InvalidStream(EmbedError):
    """What was given as a stream is none; the detail names the call."""

    code = ErrorNumber.INVALID_STREAM
    sentence = "invalid stream pointer in {}"
    default_origin = ErrorDomain.STREAMS


class OperationDenied(EmbedError):
    """The connection is read-only, and the call would change or reveal something."""

    code = ErrorNumber.OPERATION_DENIED
    sentence = "operation forbidden: {}"
    default_origin = ErrorDomain.DOMAIN


class AccessDenied(EmbedError):
    """The access policy does not let the call through; the detail names both."""

    code = ErrorNumber.ACCESS_DENIED
    sentence = "access denied: {}"
    default_origin = ErrorDomain.ACCESS


class NoDomain(EmbedError):
    """No domain with this id, name or uuid; or it is gone."""

    code = ErrorNumber.NO_DOMAIN
    sentence = "Domain not found: {}"


class NoNetwork(EmbedError):
    """No network with this name or uuid; or it is gone."""

    code = ErrorNumber.NO_NETWORK
    sentence = "Network not found: {}"
    default_origin = ErrorDomain.NETWORK


class NoStoragePool(EmbedError):
    """No storage pool with this name, uuid or target path; or it is gone."""

    code = ErrorNumber.NO_STORAGE_POOL
    sentence = "Storage pool not found: {}"
    default_origin = ErrorDomain.STORAGE


class NoStorageVolume(EmbedError):
    """No volume with this name, path or key; or it is gone."""

    code = ErrorNumber.NO_STORAGE_VOL
    sentence = "Storage volume not found: {}"
    default_origin = ErrorDomain.STORAGE


class StorageVolumeExists(EmbedError):
    """A volume of this name is in the pool already; the detail is the quoted name."""

    code = ErrorNumber.STORAGE_VOL_EXIST
    sentence = "storage volume {} exists already"
    default_origin = ErrorDomain.STORAGE


class NoSecret(EmbedError):
    """No secret with this uuid or usage; or it is gone, or has no value."""

    code = ErrorNumber.NO_SECRET
    sentence = "Secret not found: {}"
    default_origin = ErrorDomain.SECRET


class InvalidSecret(EmbedError):
    """The secret is there, and its value is not for this caller, or not what is needed."""

    code = ErrorNumber.INVALID_SECRET
    sentence = "Invalid secret: {}"
    default_origin = ErrorDomain.SECRET


class NoMetadata(EmbedError):
    """The requested metadata element is not there."""

    code = ErrorNumber.NO_DOMAIN_METADATA
    sentence = "metadata not found: {}"
    default_origin = ErrorDomain.DOMAIN


class NoSupport(EmbedError):
    """A name of libvirt's that this driver does not implement; the detail is the C function."""

    code = ErrorNumber.NO_SUPPORT
    sentence = "this function is not supported by the connection driver: {}"
    default_origin = ErrorDomain.NONE


class OperationInvalid(EmbedError):
    """The domain is not in a state that allows this."""

    code = ErrorNumber.OPERATION_INVALID
    sentence = "Requested operation is not valid: {}"


class OperationFailed(EmbedError):
    """The operation was tried and did not succeed."""

    code = ErrorNumber.OPERATION_FAILED
    sentence = "operation failed: {}"


class OperationAborted(EmbedError):
    """Somebody called the operation off."""

    code = ErrorNumber.OPERATION_ABORTED
    sentence = "operation aborted: {}"


class OperationTimeout(EmbedError):
    """A deadline passed; the detail says what was awaited and what was last seen."""

    code = ErrorNumber.OPERATION_TIMEOUT
    sentence = "Timed out during operation: {}"


class OperationUnsupported(EmbedError):
    """The operation exists and this machine, or this QEMU, cannot do it."""

    code = ErrorNumber.OPERATION_UNSUPPORTED
    sentence = "Operation not supported: {}"


class ArgumentUnsupported(EmbedError):
    """An argument is valid and what it needs is not configured."""

    code = ErrorNumber.ARGUMENT_UNSUPPORTED
    sentence = "argument unsupported: {}"


class AgentUnresponsive(EmbedError):
    """The guest agent did not answer in time, or its channel is closed."""

    code = ErrorNumber.AGENT_UNRESPONSIVE
    sentence = "Guest agent is not responding: {}"


class HostError(EmbedError):
    """What the host's libvirt answered: its code, its error domain and its sentence, which is the detail."""

    sentence = "{}"

    def __init__(
        self, detail: str, *, origin: ErrorDomain | None = None, code: ErrorNumber = ErrorNumber.INTERNAL_ERROR
    ) -> None:
        super().__init__(detail, origin=origin)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_of_host, (type(self), self.detail, self.origin, self.code))


def _rebuild_of_host(cls: type[HostError], detail: str, origin: ErrorDomain, code: ErrorNumber) -> HostError:
    return cls(detail, origin=origin, code=code)


class HostMissing(HostError):
    """The host does not have it: libvirt-python, a libvirt daemon, an active network, a way into a bridge."""
