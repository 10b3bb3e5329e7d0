"""Whether a guest that runs on one domain finds the same machine on another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.devices import KINDS
from pytest_embedvm.domain.host import Host
from pytest_embedvm.domain.model import Completed, Domain
from pytest_embedvm.errors import ConfigUnsupported
from pytest_embedvm.qemu.parts import DevicePart, KeyvalPart

#: What libvirt compares by name, in its order, and how it says so (libvirt: virDomainDefCheckABIStabilityFlags).
_FACTS: Final[tuple[tuple[str, Callable[[Domain], object]], ...]] = (
    ("virt type {} does not match source {}", lambda domain: domain.type),
    ("uuid {} does not match source {}", lambda domain: domain.uuid),
    ("requested genid does not match source", lambda domain: domain.genid is not None),
    ("genid {} does not match source {}", lambda domain: domain.genid and domain.genid.value),
    ("name '{}' does not match source '{}'", lambda domain: domain.name),
    ("max memory {} does not match source {}", lambda domain: domain.memory),
    ("vCPU max {} does not match source {}", lambda domain: domain.vcpu.maximum),
    ("architecture {} does not match source {}", lambda domain: domain.os.arch),
    ("machine type {} does not match source {}", lambda domain: domain.os.machine),
)

#: Options of QEMU's whose every word the guest can see.
_OPTIONS: Final = ("-machine", "-cpu", "-smp", "-m", "-global")
#: Properties of a -device that it cannot see: what stands behind it, and in which order it is booted from.
_BEHIND: Final = frozenset({"id", "chardev", "netdev", "drive", "audiodev", "rng", "bootindex"})


def check(source: Completed, target: Completed, host: Host) -> None:
    """Return if a guest of SOURCE can go on as TARGET; what stands behind its devices on the host may differ.

    :raise ConfigUnsupported: naming the first difference.
    """
    for words, fact in _FACTS:
        _same(f"Target domain {words}", fact(source), fact(target))
    ours, theirs = _count(source), _count(target)
    for tag in KINDS:
        _same(f"Target domain {tag} count {{}} does not match source {{}}", ours[tag], theirs[tag])
    _compare(_guest_side(source, host), _guest_side(target, host))


def _same(words: str, ours: object, theirs: object) -> None:
    if ours != theirs:
        raise ConfigUnsupported(words.format(theirs, ours))


def _count(domain: Domain) -> Counter[str]:
    tags = {kind: tag for tag, kind in KINDS.items()}
    return Counter(tags[type(device)] for device in domain.devices.all)


def _guest_side(domain: Completed, host: Host) -> list[tuple[str, Mapping[str, Any]]]:
    """What QEMU would be told of the machine that the guest sees: names, and properties by key."""
    side: list[tuple[str, Mapping[str, Any]]] = []
    for part in launch(domain, host).parts:
        if isinstance(part, DevicePart):
            visible = {key: value for key, value in part.props.items() if key not in _BEHIND}
            side.append((f"device {part.props.get('id', '')}", visible))
        elif isinstance(part, KeyvalPart) and part.option in _OPTIONS:
            side.append((f"domain's {part.option}", {"": part.head, **part.props}))
    return side


def _compare(ours: list[tuple[str, Mapping[str, Any]]], theirs: list[tuple[str, Mapping[str, Any]]]) -> None:
    for (_, our), (name, their) in zip(ours, theirs, strict=False):
        for key in {**our, **their}:
            _same(f"Target {name} {key} {{}} does not match source {{}}", our.get(key), their.get(key))
    _same("Target domain's number of devices {} does not match source {}", len(ours), len(theirs))
