"""Addresses of AF_VSOCK, which all machines of the host share."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import struct
from typing import Final

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported

DEVICE: Final = "/dev/vhost-vsock"
SET_GUEST_CID: Final = 0x4008AF60  # linux/vhost.h: VHOST_VSOCK_SET_GUEST_CID
FIRST_CID: Final = 3
LAST_CID: Final = 0xFFFFFFFE
ATTEMPTS: Final = 32


def free_cid(wanted: int | None) -> int:
    """WANTED if no machine of this host has it, else one drawn at random: two processes that ask at once differ.

    :raise ConfigUnsupported: when the host has no /dev/vhost-vsock, or WANTED is taken.
    """
    # libvirt: qemuProcessOpenVhostVsock
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        raise ConfigUnsupported("unable to open vhost-vsock device", origin=ErrorDomain.QEMU) from None
    try:
        for _ in range(ATTEMPTS):
            cid = wanted if wanted is not None else FIRST_CID + secrets.randbelow(LAST_CID - FIRST_CID + 1)
            if _is_free(device, cid):
                return cid
    finally:
        os.close(device)
    raise ConfigUnsupported(
        f"guest CID {wanted} is in use" if wanted else "no guest CID is free", origin=ErrorDomain.QEMU
    )


def _is_free(device: int, cid: int) -> bool:
    try:
        fcntl.ioctl(device, SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigUnsupported(f"unable to set guest cid: {error.strerror}", origin=ErrorDomain.QEMU) from None
        return False
    return True
