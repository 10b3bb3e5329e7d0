"""What a connection is connected to."""

from __future__ import annotations

import platform

from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.api.error import RawError, virGetLastError, virResetLastError
from pytest_embedvm.constants import API_VERSION
from pytest_embedvm.driver import node
from pytest_embedvm.driver.driver import Driver


class Identification(Base):
    """URI, type, versions, host name, and yes-or-no questions."""

    @public("virConnectGetURI")
    def getURI(self) -> str:
        """The URI it was opened with."""
        return self._session.uri

    @public("virConnectGetType")
    def getType(self) -> str:
        """`QEMU`."""
        return "QEMU"

    @public("virConnectGetVersion")
    def getVersion(self) -> int:
        """The version of the host's own QEMU: major * 1000000 + minor * 1000 + micro.

        :raise libvirtError: when there is none, or it does not run.
        """
        major, minor, micro = self._order(_qemu_version)
        return major * 1000000 + minor * 1000 + micro

    @public("virConnectGetLibVersion")
    def getLibVersion(self) -> int:
        """The libvirt release whose API this is."""
        return API_VERSION

    @public("virConnectGetHostname")
    def getHostname(self) -> str:
        """The host's name."""
        return node.hostname()

    @public("virConnectIsAlive")
    def isAlive(self) -> int:
        """1: there is no wire that could break."""
        return 1

    @public("virConnectIsEncrypted")
    def isEncrypted(self) -> int:
        """0: there is no wire."""
        return 0

    @public("virConnectIsSecure")
    def isSecure(self) -> int:
        """1: nothing leaves the process."""
        return 1

    def virConnGetLastError(self) -> RawError | None:
        """The calling thread's last error."""
        return virGetLastError()

    def virConnResetLastError(self) -> None:
        """Forget the calling thread's last error."""
        virResetLastError()


async def _qemu_version(driver: Driver) -> tuple[int, int, int]:
    emulator = driver.host.default_emulator(platform.machine())
    return (await driver.host.prepare(emulator)).capabilities.version
