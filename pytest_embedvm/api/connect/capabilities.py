"""What the host and its QEMU can do."""

from __future__ import annotations

from dataclasses import astuple
from typing import Final

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import public
from pytest_embedvm.api.connect._base import Base
from pytest_embedvm.driver.node import Node
from pytest_embedvm.errors import InvalidArgument

#: libvirt: qemuConnectGetMaxVcpus
MAX_VCPUS: Final = 16
NATIVE: Final = "qemu-argv"


class Capabilities(Base):
    """getCapabilities, getDomainCapabilities, domainXMLToNative, getInfo, getMaxVcpus."""

    @public("virNodeGetInfo")
    def getInfo(self) -> list[str | int]:
        """Architecture, memory in MiB, CPUs, MHz, NUMA nodes, sockets per node, cores per socket, threads per core."""
        return list(astuple(Node.read()))

    @public("virConnectGetMaxVcpus")
    def getMaxVcpus(self, type: str | None) -> int:
        """The number of virtual CPUs that any domain of this type can have.

        :raise libvirtError: INVALID_ARG when the driver has no such type.
        """
        if (type or "qemu").lower() not in ("qemu", "kvm"):
            raise InvalidArgument(f"unknown type '{type}'")
        return MAX_VCPUS

    @public("virConnectGetCapabilities")
    def getCapabilities(self) -> str:
        """The host and the emulators, as `<capabilities>`."""
        return self._order(lambda driver: driver.capabilities_xml())

    @public("virConnectGetDomainCapabilities")
    def getDomainCapabilities(
        self,
        emulatorbin: str | None = None,
        arch: str | None = None,
        machine: str | None = None,
        virttype: str | None = None,
        flags: int = 0,
    ) -> str:
        """What a domain of this emulator, architecture, machine and type can have, as `<domainCapabilities>`.

        :raise libvirtError: INVALID_ARG when one of them is not known.
        """
        arguments.none(flags, "qemuConnectGetDomainCapabilities")
        return self._order(lambda driver: driver.domain_capabilities_xml(emulatorbin, arch, machine, virttype))

    @public("virConnectDomainXMLToNative", writes=True)
    def domainXMLToNative(self, nativeFormat: str, domainXml: str, flags: int = 0) -> str:
        """The command line of a domain, as `qemu-argv`; nothing is started.

        :raise libvirtError: INVALID_ARG for another format; else as `createXML`.
        """
        wanted = arguments.text(nativeFormat, "nativeFormat", "virConnectDomainXMLToNative")
        text = arguments.text(domainXml, "domainXml", "virConnectDomainXMLToNative")
        arguments.none(flags, "qemuConnectDomainXMLToNative")
        if wanted != NATIVE:
            raise InvalidArgument(f"unsupported config type {wanted}")
        return self._order(lambda driver: driver.native(text))
