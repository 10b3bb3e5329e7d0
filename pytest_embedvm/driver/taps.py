"""Tap devices in the host's bridges: made by root, or by QEMU's bridge helper for everybody else."""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.errors import HostMissing, SystemFailure
from pytest_embedvm.qemu.parts import Tap

#: Where distributions put it (libvirt: qemu.conf's bridge_helper).
HELPERS: Final = tuple(
    Path(folder, "qemu-bridge-helper")
    for folder in ("/usr/lib/qemu", "/usr/libexec", "/usr/lib/qemu-bridge-helper", "/usr/local/libexec")
)
#: How long the helper may take.
HELPER_TIMEOUT_S: Final = 10.0

CLONE: Final = Path("/dev/net/tun")

# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF: Final = 0x400454CA
_TUNGETIFF: Final = 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_UP = 0x0002, 0x1000, 0x4000, 0x1
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_SIOCGIFMTU, _SIOCSIFMTU = 0x8921, 0x8922
_SIOCSIFHWADDR: Final = 0x8924
_SIOCBRADDIF: Final = 0x89A2
_ARPHRD_ETHER: Final = 1
_IFNAMSIZ: Final = 16


@dataclass(frozen=True)
class Opened:
    """A tap device that we have open."""

    descriptor: int
    name: str


async def open_tap(tap: Tap) -> Opened:
    """Make the device that TAP asks for, in its bridge; it is gone when the last copy of its descriptor is closed.

    :raise HostMissing: when this user cannot make one.
    :raise SystemFailure: when the bridge is not there, or the name cannot be one.
    """
    opening = asyncio.ensure_future(asyncio.to_thread(_make if os.geteuid() == 0 else _ask_helper, tap))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(_give_up)
        raise


def _give_up(opening: asyncio.Future[Opened]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result().descriptor)


def _request(name: str, value: bytes = b"") -> bytes:
    """A `struct ifreq`."""
    encoded = name.encode()
    if len(encoded) >= _IFNAMSIZ:
        raise SystemFailure(f"Network interface name '{name}' is too long", origin=ErrorDomain.NONE)
    return struct.pack("16s24s", encoded, value)


def _make(tap: Tap) -> Opened:
    # libvirt: virNetDevTapCreateInBridgePort
    with contextlib.ExitStack() as failing:
        descriptor = _open_clone()
        failing.callback(os.close, descriptor)
        flags = _IFF_TAP | _IFF_NO_PI | (_IFF_VNET_HDR if tap.vnet_header else 0)
        try:
            answer = fcntl.ioctl(descriptor, _TUNSETIFF, _request(tap.name, struct.pack("H", flags)))
        except OSError as error:
            raise _refused(f"Unable to create tap device {tap.name}", error) from error
        name = _name(answer)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
            _enter(control, name, tap)
        failing.pop_all()
    return Opened(descriptor, name)


def _open_clone() -> int:
    try:
        return os.open(CLONE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise _refused(f"Unable to open {CLONE}, is tun module loaded?", error) from error


def _refused(what: str, error: OSError) -> SystemFailure | HostMissing:
    """What becomes of an error: of one that is the host's, where no tap device can be made at all, `HostMissing`."""
    if error.errno in (errno.EPERM, errno.EACCES, errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return HostMissing(f"{what}: {error.strerror}", code=ErrorNumber.SYSTEM_ERROR, origin=ErrorDomain.NONE)
    return SystemFailure(f"{what}: {error.strerror}", origin=ErrorDomain.NONE)


def _name(answer: bytes) -> str:
    return answer[:_IFNAMSIZ].rstrip(b"\0").decode()


def _enter(control: socket.socket, name: str, tap: Tap) -> None:
    """Have the device NAME in its bridge, and up."""
    _, *rest = bytes.fromhex(tap.mac.replace(":", ""))
    # Above all others: a bridge takes the lowest MAC of its ports for its own.
    address = struct.pack("H", _ARPHRD_ETHER) + bytes([0xFE, *rest])
    _ioctl(control, _SIOCSIFHWADDR, _request(name, address), f"Cannot set interface MAC on '{name}'")
    mtu = _ioctl(control, _SIOCGIFMTU, _request(tap.bridge), f"Cannot get interface MTU on '{tap.bridge}'")[16:20]
    _ioctl(control, _SIOCSIFMTU, _request(name, mtu), f"Cannot set interface MTU on '{name}'")
    index = struct.pack("i", socket.if_nametoindex(name))
    _ioctl(control, _SIOCBRADDIF, _request(tap.bridge, index), f"Unable to add bridge {tap.bridge} port {name}")
    flags = _ioctl(control, _SIOCGIFFLAGS, _request(name), f"Cannot get interface flags on '{name}'")[16:18]
    up = struct.pack("H", struct.unpack("H", flags)[0] | _IFF_UP)
    _ioctl(control, _SIOCSIFFLAGS, _request(name, up), f"Cannot set interface flags on '{name}'")


def _ioctl(control: socket.socket, number: int, request: bytes, what: str) -> bytes:
    try:
        return fcntl.ioctl(control, number, request)
    except OSError as error:
        raise SystemFailure(f"{what}: {error.strerror}", origin=ErrorDomain.NONE) from error


def helper() -> Path:
    """QEMU's bridge helper, for those who are not root.

    :raise HostMissing: when there is none, or it could not do more than its caller.
    """
    found = next((path for path in HELPERS if path.is_file()), None)
    if found is None:
        why = "this user is not root, and there is no qemu-bridge-helper"
    elif not _is_privileged(found):
        why = f"this user is not root, and {found} has neither the set-user-ID bit nor CAP_NET_ADMIN"
    else:
        return found
    raise HostMissing(
        f"no card can be put into a bridge of the host's: {why}",
        code=ErrorNumber.CONFIG_UNSUPPORTED,
        origin=ErrorDomain.QEMU,
    )


def _is_privileged(program: Path) -> bool:
    with contextlib.suppress(OSError):
        return bool(os.getxattr(program, "security.capability"))
    found = program.stat()
    return found.st_uid == 0 and bool(found.st_mode & stat.S_ISUID)


def _ask_helper(tap: Tap) -> Opened:
    # libvirt: qemuCreateInBridgePortWithHelper
    program = helper()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        vnet = ["--use-vnet"] if tap.vnet_header else []
        words = [str(program), *vnet, f"--br={tap.bridge}", f"--fd={theirs.fileno()}"]
        said = _run(words, theirs.fileno())
        theirs.close()
        descriptor = _received(ours)
    if descriptor is None:
        raise SystemFailure(
            f"failed to create tap interface with '{program}': {said or 'it said nothing'}", origin=ErrorDomain.NONE
        )
    return Opened(descriptor, _name(fcntl.ioctl(descriptor, _TUNGETIFF, _request(""))))


def _run(words: list[str], descriptor: int) -> str:
    """What the helper says."""
    try:
        done = subprocess.run(
            words,
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=HELPER_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFailure(f"'{words[0]}' cannot be run: {error}", origin=ErrorDomain.NONE) from error
    return done.stderr.decode(errors="replace").strip()


def _received(ours: socket.socket) -> int | None:
    """The descriptor that was sent; the other end is closed, so nothing is waited for."""
    size = array.array("i").itemsize
    _, messages, _, _ = ours.recvmsg(1, socket.CMSG_SPACE(size), socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int(array.array("i", data[:size])[0])
    return None
