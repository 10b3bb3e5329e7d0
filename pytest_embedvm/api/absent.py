"""The subjects of libvirt that have no driver here yet: each class exists, each method raises NO_SUPPORT.

They are never handed out; they are there for `isinstance` and for annotations.
"""

from __future__ import annotations

from pytest_embedvm.api.unsupported import unsupported


@unsupported
class virDomainCheckpoint:
    """A checkpoint of a domain's disks."""


@unsupported
class virDomainSnapshot:
    """A snapshot of a domain."""


@unsupported
class virInterface:
    """A network interface of the host."""


@unsupported
class virNetworkPort:
    """A port of a virtual network."""


@unsupported
class virNodeDevice:
    """A device of the host."""


@unsupported
class virNWFilter:
    """A network filter."""


@unsupported
class virNWFilterBinding:
    """A network filter, bound to a port."""
