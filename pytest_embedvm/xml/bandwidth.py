"""`<bandwidth>` of a card, a network or a group of its ports: an element of more than one subject."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, XMLError
from pytest_embedvm.units import Rate, Rates
from pytest_embedvm.xml.scalars import Unsigned


@dataclass(kw_only=True)
class Flow:
    """One direction: KiB/s on average and at most, KiB in a burst."""

    average: Annotated[int | None, Unsigned()] = None
    peak: Annotated[int | None, Unsigned()] = None
    floor: Annotated[int | None, Unsigned()] = None
    burst: Annotated[int | None, Unsigned()] = None

    def check(self, origin: ErrorDomain) -> None:
        """:raise XMLError, ConfigUnsupported: when it limits nothing, or promises what cannot be kept by ORIGIN."""
        # libvirt: virNetDevBandwidthParseRate
        if not self.average and not self.floor:
            raise XMLError("Missing mandatory average or floor attributes", origin=ErrorDomain.NONE)
        if not self.average and (self.peak or self.burst):
            raise XMLError("'peak' and 'burst' require 'average' attribute", origin=ErrorDomain.NONE)
        if self.floor is not None:
            raise ConfigUnsupported(
                f"floor='{self.floor}' is not supported: no throughput is guaranteed", origin=origin
            )

    @property
    def rate(self) -> Rate:
        return Rate(self.average or 0, self.peak, self.burst)


@dataclass(kw_only=True)
class Bandwidth:
    """What comes in to the guest, and what it sends."""

    inbound: Flow | None = None
    outbound: Flow | None = None

    def check(self, origin: ErrorDomain) -> None:
        """:raise XMLError, ConfigUnsupported: as `Flow.check`."""
        for flow in (self.inbound, self.outbound):
            if flow is not None:
                flow.check(origin)

    @property
    def rates(self) -> Rates:
        return Rates(self.inbound.rate if self.inbound else None, self.outbound.rate if self.outbound else None)
