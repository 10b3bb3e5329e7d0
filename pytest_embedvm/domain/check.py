"""What crosses kinds and cannot be given: found before anything is started."""

from __future__ import annotations

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context
from pytest_embedvm.errors import ConfigUnsupported, InternalError


def check(context: Context) -> None:
    """Refuse what neither section nor device alone can see, then let each speak for itself.

    :raise ConfigUnsupported: naming element and value.
    :raise XMLError: where libvirt calls it an error of the XML.
    """
    domain = context.domain
    domain.os.check(context)
    _check_type(context)
    _check_vcpus(context)
    for device in domain.devices.all:
        device.check(context)


def _check_type(context: Context) -> None:
    domain = context.domain
    if domain.type not in ("qemu", "kvm"):
        # libvirt: virQEMUCapsCacheLookupDefault
        raise ConfigUnsupported(
            f"Emulator '{domain.devices.emulator}' does not support virt type '{domain.type}'",
            origin=ErrorDomain.QEMU,
        )
    refused = context.host.kvm_refused() if domain.type == "kvm" else None
    if refused:
        raise ConfigUnsupported(
            f"Emulator '{domain.devices.emulator}' does not support virt type 'kvm': {refused}",
            origin=ErrorDomain.QEMU,
        )


def _check_vcpus(context: Context) -> None:
    vcpu = context.domain.vcpu
    if vcpu.maximum == 0:
        # libvirt: virDomainNumaGetCPUCountTotal's caller, which is where 0 ends up
        raise InternalError("CPU IDs in <numa> exceed the <vcpu> count", origin=ErrorDomain.DOMAIN)
    if vcpu.current is not None and vcpu.current > vcpu.maximum:
        raise ConfigUnsupported("maximum vCPU count must not be less than current vCPU count")
