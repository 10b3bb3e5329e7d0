"""Which other drivers a domain XML would call when it starts, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from pytest_embedvm.domain.vocabulary import knows
from pytest_embedvm.xml.document import Element

Secondary = Literal["network", "nodedev", "nwfilter", "secret", "storage"]
Found = tuple[Secondary, str]


@dataclass(frozen=True)
class Need:
    """An element that makes the start of its domain call another driver.

    `driver` is libvirt's name of that driver, `element` the XPath of the element, `reason` half a sentence.
    """

    driver: Secondary
    element: str
    reason: str

    def __str__(self) -> str:
        return f"{self.element} calls the {self.driver} driver: {self.reason}"


def explain(root: Element) -> list[Need]:
    """What the domain ROOT would call, in the order of the document.

    Elements that libvirt's schema does not know call nobody, as libvirt ignores them; those that it knows are found
    whether or not this driver can give them.
    """
    tree = root.getroottree()
    return [
        Need(driver, tree.getpath(element), reason)
        for top in root
        if top.tag != "metadata"  # it is the user's, whatever it looks like
        for element in top.iter("*")
        for driver, reason in _calls(element)
    ]


def _calls(element: Element) -> Iterator[Found]:
    above = element.getparent()
    rule = _RULES.get((above.tag, element.tag)) if above is not None else None
    if rule and knows(_path(element)):
        yield from rule(element)


def _path(element: Element) -> tuple[str, ...]:
    return (*(above.tag for above in reversed(list(element.iterancestors()))), element.tag)


def _source(element: Element) -> Mapping[str, str] | None:
    source = element.find("source")
    return None if source is None else {str(name): str(value) for name, value in source.attrib.items()}


def _interface(interface: Element) -> Iterator[Found]:
    kind, source = interface.get("type"), _source(interface) or {}
    if kind == "network":
        # libvirt: virDomainNetAllocateActualDevice
        group = f" (portgroup '{source['portgroup']}')" if "portgroup" in source else ""
        yield "network", f"an interface of type 'network' is a port of network '{source.get('network', '')}'{group}"
    elif kind == "hostdev":
        # libvirt: qemuHostdevPreparePCIDevices; those of interfaces are among them
        yield "nodedev", "an interface of type 'hostdev' takes a device of the host's"


def _listen(listen: Element) -> Iterator[Found]:
    if listen.get("type") == "network":
        # libvirt: qemuProcessGetNetworkAddress
        yield "network", f"the display listens on the host's address in network '{listen.get('network', '')}'"


def _image(image: Element) -> Iterator[Found]:
    kind, source = image.get("type"), _source(image)
    if source is None:
        return  # an empty drive
    if kind == "volume":
        # libvirt: virDomainStorageTranslateSourcePool
        volume, pool = source.get("volume", ""), source.get("pool", "")
        yield "storage", f"a source of type 'volume' is volume '{volume}' of storage pool '{pool}'"
    elif kind == "nvme":
        # libvirt: qemuHostdevPrepareNVMeDisks
        yield "nodedev", "a source of type 'nvme' takes a device of the host's"


def _hostdev(hostdev: Element) -> Iterator[Found]:
    if (_source(hostdev) or {}).get("protocol") == "iscsi":
        return  # QEMU speaks iSCSI itself: no device of the host's is taken
    # libvirt: qemuHostdevPrepareDomainDevices
    kind = hostdev.get("type", "")
    yield "nodedev", f"a hostdev of type '{kind}' takes a device of the host's"


def _secret(secret: Element) -> Iterator[Found]:
    # libvirt: qemuDomainSecretInfoSetup, virSecretGetSecretString
    key = "uuid" if "uuid" in secret.attrib else "usage"
    yield "secret", f"the password is that of the secret with {key} '{secret.get(key, '')}'"


def _tpm_encryption(encryption: Element) -> Iterator[Found]:
    if "secret" in encryption.attrib:
        # libvirt: qemuTPMSetupEncryption
        yield "secret", f"the TPM's state is encrypted with the secret with uuid '{encryption.get('secret')}'"


def _filterref(filterref: Element) -> Iterator[Found]:
    # libvirt: virDomainConfNWFilterInstantiate
    yield "nwfilter", f"the interface's traffic passes through filter '{filterref.get('filter', '')}'"


#: What may call a driver, by the names of the element it is in and its own.
_RULES: Final[Mapping[tuple[str, str], Callable[[Element], Iterator[Found]]]] = {
    ("devices", "interface"): _interface,
    ("interface", "filterref"): _filterref,
    ("graphics", "listen"): _listen,
    ("devices", "disk"): _image,
    ("devices", "filesystem"): _image,
    ("disk", "backingStore"): _image,
    ("disk", "mirror"): _image,
    ("mirror", "backingStore"): _image,
    ("backingStore", "backingStore"): _image,
    ("os", "nvram"): _image,
    ("devices", "hostdev"): _hostdev,
    ("auth", "secret"): _secret,
    ("encryption", "secret"): _secret,
    ("backend", "encryption"): _tpm_encryption,
}
