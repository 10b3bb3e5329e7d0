"""`@pytest.mark.embedvm(memory=512, …)`: what a test wants of its machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import pytest

from pytest_embedvm.plugin.declared import Declarations, Declared
from pytest_embedvm.plugin.settings import (
    CHOICES,
    SETTINGS,
    BootChoice,
    Firmware,
    NetworkChoice,
    OwnChoice,
    ScopeChoice,
)

if TYPE_CHECKING:
    from pytest_embedvm.guest.cloud_init import Seed

#: pytest shows the line that called, not these.
__tracebackhide__ = True

MARKER: Final = "embedvm"

#: The kernel that is booted, with its initramfs, where no image is.
BUILT_IN: Final = "built-in"


@dataclass(frozen=True, kw_only=True)
class DomainArguments:
    """What the built-in domain XML is made of.

    `memory` is in MiB. `image` is a raw or qcow2 disk, or the name of one of `embedvm_images`; each machine
    writes to an overlay of its own, never to it.
    `kernel` and `initrd` replace the built-in guest's (which "built-in" asks for beside an image), `cmdline` is
    added to its kernel's command line. `cloud_init` configures an image that has cloud-init. `timeout` is how many
    seconds the guest may take until it answers. `firmware` is what boots it; UEFI keeps its variables for each machine.
    `capture` writes what passes each network card into a file, from the start on.

    `network`, `secrets` and `storage` say whose networks, secrets and storage pools its connection has: the test's own
    (`private`) or those of the host's libvirt. `network` is also where its card is: on the network `default` of either,
    behind QEMU's own NAT (`user`), or nowhere.

    `boot` says whether a VM that has to answer is a `clone` of a template that booted once, boots (`cold`), or is a
    clone where it can be one (`auto`). `template` is one of `embedvm_template`, or its name: the VM goes on
    from there, and where it boots it is prepared as that is.

    `scope` says which tests share a root, and in it a VM that is reset for each of them: those of a class, a module, or
    the session.
    """

    memory: int = 256
    vcpus: int = 1
    machine: str = "q35"
    cpu: str | None = None
    firmware: Firmware = "bios"
    image: str | Path | None = None
    kernel: str | Path | None = None
    initrd: str | Path | None = None
    cmdline: str | None = None
    cloud_init: Seed | None = None
    network: NetworkChoice = "private"
    secrets: OwnChoice = "private"
    storage: OwnChoice = "private"
    timeout: float = 120.0
    capture: bool = False
    boot: BootChoice = "auto"
    template: Declared | str | None = None
    scope: ScopeChoice = "function"

    def __post_init__(self) -> None:
        """:raise ValueError: when a value cannot be one; says what can."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        wrong = [word for name, value in values.items() if value is not None for word in _complaints(name, value)]
        if wrong:
            raise ValueError("; ".join(wrong))


KNOWN: Final = tuple(f.name for f in dataclasses.fields(DomainArguments))


def arguments(item: pytest.Item, declarations: Declarations) -> DomainArguments:
    """What the markers of ITEM say, the closest to the test winning for each keyword; then its template; then settings.

    :raise LookupError: when there is no such template.
    """
    values: dict[str, Any] = {}
    for marker in item.iter_markers(MARKER):
        values = {**marker.kwargs, **values}
    return DomainArguments(**{**item.config.stash[SETTINGS].choices, **with_template(values, declarations, item)})


def with_template(values: Mapping[str, Any], declarations: Declarations, item: pytest.Item | None) -> dict[str, Any]:
    """VALUES, and what the template that they name says of its machine.

    :raise LookupError: when there is no such template.
    """
    if values.get("template") is None:
        return dict(values)
    chain = declarations.chain(values["template"], item)
    return {**chain[0].keywords, **values, "template": chain[-1]}


def complaints(item: pytest.Item) -> Iterator[str]:
    """What is wrong with the markers of ITEM."""
    for marker in item.iter_markers(MARKER):
        if marker.args:
            yield f"@pytest.mark.{MARKER} takes keywords only, not {marker.args[0]!r}; it knows {', '.join(KNOWN)}"
        for name, value in marker.kwargs.items():
            yield from (f"@pytest.mark.{MARKER}: {word}" for word in _complaints(name, value))


#: What values of some keywords are, and in words.
_TYPES: Final[Mapping[str, tuple[type | UnionType, str]]] = {
    **dict.fromkeys(("machine", "cpu", "cmdline"), (str, "a string")),
    **dict.fromkeys(("image", "kernel", "initrd"), (str | Path, "a path")),
    "capture": (bool, "True or False"),
    "template": (str | Declared, "a template, or its name"),
}


def _complaints(name: str, value: object) -> Iterator[str]:
    where = f"{name}={value!r}"
    if name not in KNOWN:
        yield f"{where}: unknown keyword '{name}'; it knows {', '.join(KNOWN)}"
    elif name in CHOICES and value not in CHOICES[name]:
        yield f"{where}: possible is {' or '.join(CHOICES[name])}"
    elif name == "firmware" and value not in get_args(Firmware):
        yield f"{where}: possible is {' or '.join(get_args(Firmware))}"
    elif name in ("memory", "vcpus") and not _is_positive(value, int):
        yield f"{where}: must be a whole number above 0" + (" (MiB)" if name == "memory" else "")
    elif name == "timeout" and not _is_positive(value, int, float):
        yield f"{where}: must be a number of seconds above 0"
    elif name in _TYPES and not isinstance(value, _TYPES[name][0]):
        yield f"{where}: must be {_TYPES[name][1]}"
    elif name == "cloud_init" and not callable(getattr(value, "user_data", None)):
        yield f"{where}: must be a pytest_embedvm.guest.cloud_init.Seed"


def _is_positive(value: object, *types: type) -> bool:
    return type(value) in types and cast("float", value) > 0
