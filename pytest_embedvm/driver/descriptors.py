"""Unix sockets below directories with paths of any length.

A socket's address holds 107 bytes. The kernel resolves `/proc/self/fd/N/name` through the open
directory N, so the address is short however long the directory's own path is.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from pytest_embedvm.driver import taps
from pytest_embedvm.driver.companions import Companions
from pytest_embedvm.driver.holdings import Holdings
from pytest_embedvm.driver.tpm import Tpms
from pytest_embedvm.errors import SystemFailure
from pytest_embedvm.files import PRIVATE_FILE, make_private_directory
from pytest_embedvm.qemu.parts import (
    Card,
    Companion,
    Connect,
    Descriptor,
    Listen,
    OpenFile,
    Request,
    Scratch,
    SocketPlace,
    Swtpm,
    Tap,
)

BACKLOG: Final = 16


#: What is there at once.
OtherRequest: TypeAlias = Card | Companion | Connect | Listen | OpenFile | Scratch | SocketPlace | Swtpm
#: Connects a card to its network, until the stack is unwound.
Plug = Callable[[Card, contextlib.AsyncExitStack], None]


@dataclass
class Beside:
    """What a machine has beside its QEMU, as it is opened: programs, files that go with it, networks."""

    plug: Plug
    companions: Companions = field(default_factory=Companions)
    files: list[Path] = field(default_factory=list)
    #: The tap devices, by the MAC of the card.
    taps: dict[str, str] = field(default_factory=dict)
    tpms: Tpms = field(default_factory=Tpms)

    def keep(self, path: Path, stack: contextlib.AsyncExitStack) -> None:
        """The file at PATH goes with the machine, and is forgotten when STACK is unwound."""
        self.files.append(path)
        stack.callback(self.files.remove, path)


async def open_all(
    wanted: Iterable[Descriptor], holdings: Holdings, passed: contextlib.ExitStack, beside: Beside
) -> dict[str, int]:
    """Open what the parts of a machine ask for; the numbers by the descriptors' names.

    :raise SystemFailure, HostMissing: when something cannot be had.
    """
    return {d.name: await open_one(d, holdings.stack(d.name), passed, beside) for d in wanted}


async def open_one(
    descriptor: Descriptor, stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack, beside: Beside
) -> int:
    """Open what DESCRIPTOR asks for; its number.

    :param stack, passed, beside: as for `open_request`.
    :raise SystemFailure, HostMissing: when it cannot be had.
    """
    if not isinstance(descriptor.opens, Tap):
        return open_request(descriptor.opens, stack, passed, beside)
    tap = await taps.open_tap(descriptor.opens)
    passed.callback(os.close, tap.descriptor)
    beside.taps[descriptor.opens.mac] = tap.name
    return tap.descriptor


def open_request(
    request: OtherRequest, stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack, beside: Beside
) -> int:
    """Open what a part of a machine asks for, and return its number.

    :param stack: undoes what lasts as long as the machine: a socket's file, a companion.
    :param passed: closes our copy, once QEMU has inherited it.
    :param beside: is told of both.
    :raise SystemFailure: when it cannot be had.
    """
    match request:
        case Listen(path, first):
            return _listen(Path(path), Path(first or path), stack, passed, beside)
        case Card(path):
            number = _listen(Path(path), Path(path), stack, passed, beside)
            beside.plug(request, stack)  # QEMU finds it waiting
            return number
        case Connect(path):
            return passed.enter_context(connect_unix(Path(path))).fileno()
        case OpenFile():
            descriptor = _open_file(request)
            passed.callback(os.close, descriptor)
            return descriptor
        case SocketPlace(path):
            descriptor = _open_directory(Path(path).parent)
            passed.callback(os.close, descriptor)
            stack.callback(Path(path).unlink, missing_ok=True)
            beside.keep(Path(path), stack)
            return descriptor
        case Scratch(path):
            descriptor = _make_file(Path(path), stack)
            passed.callback(os.close, descriptor)
            beside.keep(Path(path), stack)
            return descriptor
        case Companion(name, argv, listens):
            ends = _accepting_pair() if listens else socket.socketpair()
            return beside.companions.start(name, argv, ends, stack, passed)
        case Swtpm():
            return beside.tpms.serve(request, beside.companions, stack, passed)


def adopt_request(request: Request, stack: contextlib.AsyncExitStack, beside: Beside) -> None:
    """Answer for what an earlier process opened for a machine that still runs; a card is connected again.

    :param stack: undoes what `open_request` would have had it undo.
    """
    match request:
        case Card(path):
            stack.callback(_drop, Path(path), beside)
            beside.plug(request, stack)
        case Listen(path) | SocketPlace(path) | Scratch(path):
            stack.callback(_drop, Path(path), beside)
        case Companion(name) | Swtpm(name):
            beside.companions.end_with(name, stack)


def _drop(path: Path, beside: Beside) -> None:
    path.unlink(missing_ok=True)
    if path in beside.files:
        beside.files.remove(path)


def _listen(
    path: Path, bound: Path, stack: contextlib.AsyncExitStack, passed: contextlib.ExitStack, beside: Beside
) -> int:
    sock = passed.enter_context(listen_unix(bound))
    for place in {bound, path}:
        stack.callback(remove_socket, place, bound.stat())
        beside.keep(place, stack)
    return sock.fileno()


def remove_socket(path: Path, bound: os.stat_result | None = None) -> None:
    """Remove the socket at PATH; not one that another machine has BOUND there since."""
    with contextlib.suppress(FileNotFoundError):
        if bound is None or os.path.samestat(path.lstat(), bound):
            path.unlink()


def _open_file(wanted: OpenFile) -> int:
    path = wanted.path if wanted.otherwise is None or Path(wanted.path).exists() else wanted.otherwise
    try:
        return os.open(path, (os.O_RDWR if wanted.write else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"{wanted.fault.format(path)}: {error.strerror}") from error


def _make_file(path: Path, stack: contextlib.AsyncExitStack) -> int:
    """A new file in place of what a dead process left there."""
    try:
        make_private_directory(path.parent)
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    except OSError as error:
        raise SystemFailure(f"Failed to create file '{path}': {error.strerror}") from error
    stack.callback(path.unlink, missing_ok=True)
    return descriptor


def _open_directory(path: Path) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SystemFailure(f"Failed to open directory '{path}': {error.strerror}") from error


def _accepting_pair() -> tuple[socket.socket, socket.socket]:
    """A connected socket, and the listening one at which its other end waits: nobody else can connect to that."""
    with tempfile.TemporaryDirectory(prefix="embedvm-") as directory:  # 0700
        listening = listen_unix(Path(directory, "socket"))
        return connect_unix(Path(directory, "socket")), listening


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def listen_unix(path: Path) -> socket.socket:
    """A listening stream socket at PATH, 0600; one that a dead process left there is replaced.

    :raise SystemFailure: when it cannot be bound, or something else than a socket is there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if path.exists() and stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
        with _short(path) as address:
            sock.bind(address)
        path.chmod(PRIVATE_FILE)
        sock.listen(BACKLOG)
    except (OSError, ValueError) as error:
        sock.close()
        raise SystemFailure(f"Failed to bind socket to '{path}': {_reason(error)}") from error
    return sock


def connect_unix(path: Path) -> socket.socket:
    """A stream socket connected to the listener at PATH, blocking.

    :raise SystemFailure: when nobody listens there, or too many wait there already.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)  # a listener whose backlog is full must not stop the loop
        with _short(path) as address:
            sock.connect(address)
        sock.setblocking(True)
    except (OSError, ValueError) as error:
        sock.close()
        # libvirt: virNetSocketNewConnectUNIX
        raise SystemFailure(f"Failed to connect socket to '{path}': {_reason(error)}") from error
    return sock


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
