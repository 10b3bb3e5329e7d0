"""The drop-in for libvirt-python: `from pytest_embedvm import libvirt`.

Its names, constants, codes and sentences are libvirt's; what stands behind them is the embedded driver, and
the only URI is `qemu:///embed?root=/absolute/path`. A name that libvirt-python has and this driver does not
implement raises VIR_ERR_NO_SUPPORT.
"""

from __future__ import annotations

from pytest_embedvm import constants
from pytest_embedvm.api.absent import (
    virDomainCheckpoint,
    virDomainSnapshot,
    virInterface,
    virNetworkPort,
    virNodeDevice,
    virNWFilter,
    virNWFilterBinding,
)
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.api.connect.opening import open, openAuth, openReadOnly
from pytest_embedvm.api.domain import virDomain
from pytest_embedvm.api.error import (
    libvirtError,
    registerErrorHandler,
    virGetLastError,
    virGetLastErrorCode,
    virGetLastErrorDomain,
    virGetLastErrorMessage,
    virResetLastError,
)
from pytest_embedvm.api.event_loop import (
    virEventAddHandle,
    virEventAddTimeout,
    virEventInvokeFreeCallback,
    virEventRegisterDefaultImpl,
    virEventRegisterImpl,
    virEventRemoveHandle,
    virEventRemoveTimeout,
    virEventRunDefaultImpl,
    virEventUpdateHandle,
    virEventUpdateTimeout,
    virInitialize,
)
from pytest_embedvm.api.network import virNetwork
from pytest_embedvm.api.secret import virSecret
from pytest_embedvm.api.storage_pool import virStoragePool
from pytest_embedvm.api.storage_volume import virStorageVol
from pytest_embedvm.api.stream import virStream
from pytest_embedvm.api.version import getVersion
from pytest_embedvm.constants import *

__all__ = [
    "getVersion",
    "libvirtError",
    "open",
    "openAuth",
    "openReadOnly",
    "registerErrorHandler",
    "virConnect",
    "virDomain",
    "virDomainCheckpoint",
    "virDomainSnapshot",
    "virEventAddHandle",
    "virEventAddTimeout",
    "virEventInvokeFreeCallback",
    "virEventRegisterDefaultImpl",
    "virEventRegisterImpl",
    "virEventRemoveHandle",
    "virEventRemoveTimeout",
    "virEventRunDefaultImpl",
    "virEventUpdateHandle",
    "virEventUpdateTimeout",
    "virGetLastError",
    "virGetLastErrorCode",
    "virGetLastErrorDomain",
    "virGetLastErrorMessage",
    "virInitialize",
    "virInterface",
    "virNWFilter",
    "virNWFilterBinding",
    "virNetwork",
    "virNetworkPort",
    "virNodeDevice",
    "virResetLastError",
    "virSecret",
    "virStoragePool",
    "virStorageVol",
    "virStream",
]
__all__ += constants.__all__
