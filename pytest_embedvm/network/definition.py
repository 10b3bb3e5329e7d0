"""A `<network>`: its XML as data, completed and checked."""

from __future__ import annotations

import re
import uuid as uuids
from copy import deepcopy
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, Literal

from lxml import etree

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, MissingName, XMLError
from pytest_embedvm.network.frames import Address
from pytest_embedvm.xml import document, mapping
from pytest_embedvm.xml.document import Element
from pytest_embedvm.xml.mapping import At, Kept
from pytest_embedvm.xml.scalars import Plain, Scalar, Unsigned, Where, YesNo

#: The modes of libvirt that a segment of our own can have; `none` is spelled by leaving the element out.
MODES: Final = ("nat",)
#: The least and the most that an Ethernet segment may carry, in bytes.
SMALLEST_MTU, LARGEST_MTU = 68, 65535
#: libvirt: VIR_SOCKET_ADDR_RANGE's limit, virSocketAddrGetRange
LARGEST_RANGE: Final = 65535

_MAC: Final = re.compile(r"(?:[0-9a-fA-F]{1,2}:){5}[0-9a-fA-F]{1,2}")


class _Mac(Scalar[str]):
    def read(self, text: str, where: Where) -> str:
        if not _MAC.fullmatch(text):
            # libvirt: virNetworkDHCPHostDefParseXML
            raise XMLError(f"Cannot parse MAC address '{text}'", origin=ErrorDomain.NETWORK)
        return ":".join(octet.lower().zfill(2) for octet in text.split(":"))

    def write(self, value: str) -> str:
        return value


class _Address(Scalar[Address]):
    def read(self, text: str, where: Where) -> Address:
        try:
            return ip_address(text)
        except ValueError:
            # libvirt: virNetworkIPDefParseXML
            raise XMLError(f"Bad address '{text}' in element <{where.tag}>", origin=ErrorDomain.NETWORK) from None

    def write(self, value: Address) -> str:
        return str(value)


class _Uuid(Scalar[uuids.UUID]):
    def read(self, text: str, where: Where) -> uuids.UUID:
        try:
            return uuids.UUID(text.strip())
        except ValueError:
            # libvirt: virNetworkDefParseXML
            raise XMLError("malformed uuid element", origin=ErrorDomain.NETWORK) from None

    def write(self, value: uuids.UUID) -> str:
        return str(value)
