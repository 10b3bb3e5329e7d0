"""virDomain, assembled from its topics."""

from __future__ import annotations

from pytest_embedvm.api.domain.block import Block
from pytest_embedvm.api.domain.console import Console
from pytest_embedvm.api.domain.definition import Definition
from pytest_embedvm.api.domain.devices import Devices
from pytest_embedvm.api.domain.identity import Identification
from pytest_embedvm.api.domain.information import Information
from pytest_embedvm.api.domain.interfaces import Interfaces
from pytest_embedvm.api.domain.lifecycle import Lifecycle
from pytest_embedvm.api.domain.metadata import Metadata
from pytest_embedvm.api.domain.migration import Migration
from pytest_embedvm.api.domain.passthrough import Passthrough
from pytest_embedvm.api.domain.save import Save
from pytest_embedvm.api.unsupported import unsupported


@unsupported
class virDomain(
    Interfaces,
    Identification,
    Lifecycle,
    Information,
    Definition,
    Metadata,
    Console,
    Passthrough,
    Block,
    Devices,
    Migration,
    Save,
):
    """A domain of a connection.

    It outlives its machine: then every call but `name`, `UUID`, `UUIDString`, `ID` and `connect`
    raises VIR_ERR_NO_DOMAIN.
    """
