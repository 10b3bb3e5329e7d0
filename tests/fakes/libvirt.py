"""libvirt-python as far as the driver knows it, without a daemon."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any


class libvirtError(Exception):  # noqa: N801
    def __init__(self, message: str, code: int, domain: int) -> None:
        super().__init__(message)
        self._said = message, code, domain

    def get_error_message(self) -> str:
        return self._said[0]

    def get_error_code(self) -> int:
        return self._said[1]

    def get_error_domain(self) -> int:
        return self._said[2]


class Connection:
    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.alive = True
        self.closed = False
        self.threads: set[int] = set()

    def isAlive(self) -> int:
        return int(self.alive)

    def close(self) -> int:
        self.closed = True
        return 0

    def answer(self, value: Any) -> Any:
        self.threads.add(threading.get_ident())
        return value


class FakeLibvirt(ModuleType):
    """The module; `refuses` are the URIs at which nobody answers."""

    libvirtError = libvirtError  # noqa: N815

    def __init__(self, refuses: Iterable[str] = ()) -> None:
        super().__init__("libvirt")
        self.refuses = set(refuses)
        self.tried: list[str] = []
        self.opened: list[Connection] = []
        self.handlers: list[Callable[..., object]] = []

    def open(self, uri: str) -> Connection:
        self.tried.append(uri)
        if uri in self.refuses:
            raise libvirtError(f"nobody is at {uri}", 38, 7)
        self.opened.append(Connection(uri))
        return self.opened[-1]

    def registerErrorHandler(self, handler: Callable[..., object], context: object) -> None:
        self.handlers.append(handler)
