"""libvirt's one exception, and the last error of each thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from pytest_embedvm.constants import ErrorDomain, ErrorLevel, ErrorNumber
from pytest_embedvm.errors import EmbedError

#: code, error domain, message, level, str1, str2, str3, int1, int2
RawError: TypeAlias = tuple[int, int, str, int, str | None, str | None, str | None, int, int]
T = TypeVar("T")


class _Last(threading.local):
    error: RawError | None = None


_last = _Last()
_handler: tuple[Callable[[Any, RawError], object], Any] | None = None


class libvirtError(Exception):
    """What every call of this API raises; it carries the calling thread's last error.

    `defmsg` is the text when that thread has no error to carry; then all getters answer None.
    """

    def __init__(self, defmsg: str) -> None:
        self.err = _last.error
        super().__init__(defmsg if self.err is None else self.err[2])

    def get_error_code(self) -> int | None:
        """One of `VIR_ERR_*`: what went wrong."""
        return None if self.err is None else self.err[0]

    def get_error_domain(self) -> int | None:
        """One of `VIR_FROM_*`: the part of the library that found out."""
        return None if self.err is None else self.err[1]

    def get_error_message(self) -> str | None:
        """The whole sentence."""
        return None if self.err is None else self.err[2]

    def get_error_level(self) -> int | None:
        """One of `VIR_ERR_WARNING`, `VIR_ERR_ERROR`."""
        return None if self.err is None else self.err[3]

    def get_str1(self) -> str | None:
        """The sentence before its detail was put in, as a C format."""
        return None if self.err is None else self.err[4]

    def get_str2(self) -> str | None:
        """The detail alone."""
        return None if self.err is None else self.err[5]

    def get_str3(self) -> str | None:
        """More detail; None here."""
        return None if self.err is None else self.err[6]

    def get_int1(self) -> int | None:
        """A number that belongs to the error, or -1."""
        return None if self.err is None else self.err[7]

    def get_int2(self) -> int | None:
        """A second one, or -1."""
        return None if self.err is None else self.err[8]


def report(error: EmbedError) -> libvirtError:
    """Make ERROR the thread's last one, tell the registered handler, and wrap it to be raised."""
    # libvirt: virRaiseErrorFull: str1 is the format, str2 the detail, both numbers -1
    sentence = error.sentence.replace("{}", "%s")
    detail = error.detail if "%s" in sentence else None
    raw = (int(error.code), int(error.origin), error.message, int(ErrorLevel.ERROR), sentence, detail, None, -1, -1)
    _last.error = raw
    if _handler is not None:
        function, context = _handler
        function(context, raw)
    return libvirtError(error.message)


def registerErrorHandler(f: Callable[[T, RawError], object] | None, ctx: T) -> int:
    """Have F called with CTX and the raw error whenever one is reported; None takes the handler away.

    Without a handler nothing is printed: unlike libvirt's own library, which writes to stderr.
    """
    global _handler
    _handler = None if f is None else (f, ctx)
    return 0


def virGetLastError() -> RawError | None:
    """The calling thread's last error, or None; each call of the API clears it first."""
    return _last.error


def virGetLastErrorCode() -> int:
    """The last error's `VIR_ERR_*`; VIR_ERR_OK without one."""
    return int(ErrorNumber.OK) if _last.error is None else _last.error[0]


def virGetLastErrorDomain() -> int:
    """The last error's `VIR_FROM_*`; VIR_FROM_NONE without one."""
    return int(ErrorDomain.NONE) if _last.error is None else _last.error[1]


def virGetLastErrorMessage() -> str:
    """The last error's sentence."""
    return "no error" if _last.error is None else _last.error[2]


def virResetLastError() -> None:
    """Forget the calling thread's last error."""
    _last.error = None
