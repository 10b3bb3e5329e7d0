"""The pieces of a virtual machine as QEMU names them: each renders as argv, as plug and as unplug.

In QEMU every option has a QMP twin that takes the same JSON: -device and device_add, -object and
object-add, -netdev and netdev_add, -blockdev and blockdev-add. What takes no JSON on the command
line (-chardev -machine -accel -fsdev -tpmdev, up to QEMU 7.2 at least) is spelled out here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

Json: TypeAlias = "bool | int | str | list[Json] | dict[str, Json] | Descriptor | None"
Props: TypeAlias = Mapping[str, Json]


@dataclass(frozen=True)
class Listen:
    """A unix socket bound at `path` and listening.

    `beside` is where it is bound first, if another machine still listens at `path`.
    """

    path: str
    beside: str | None = None


@dataclass(frozen=True)
class Connect:
    """A unix socket connected to `path`."""

    path: str


@dataclass(frozen=True)
class OpenFile:
    """A file or device node opened for reading, or for reading and writing."""

    path: str
    write: bool = False


@dataclass(frozen=True)
class SocketPlace:
    """The directory of `path`, in which QEMU itself binds a unix socket; the socket's file ends with the machine.

    QEMU is told a path through this descriptor: a socket's own path may not be longer than 107 bytes.
    """

    path: str


@dataclass(frozen=True)
class Scratch:
    """An empty file at `path`, opened for reading and writing, which ends with the machine."""

    path: str


@dataclass(frozen=True)
class Companion:
    """One end of a socket pair whose other end is held by a program of its own: passt, swtpm.

    `{fd}` in `argv` is the number of the program's end. The program is started before QEMU and
    ended after it. Where it LISTENS, its end is a socket at which the other end's connection waits: virtiofsd.
    """

    name: str
    argv: tuple[str, ...]
    listens: bool = False


@dataclass(frozen=True)
class Card:
    """A unix socket bound at `path` and listening, to which `network` is connected: GUEST's card with this MAC."""

    path: str
    network: str
    mac: str
    guest: str


Request: TypeAlias = Card | Listen | Connect | OpenFile | SocketPlace | Scratch | Companion


@dataclass(frozen=True)
class Descriptor:
    """A file descriptor that QEMU inherits: what has to be opened, under a name that is unique in the machine.

    `spelled` is how QEMU is told of it; the first `{fd}` in it is the number.
    """

    name: str
    opens: Request
    spelled: str = "{fd}"


#: Descriptor names to the numbers under which QEMU inherits them.
Descriptors: TypeAlias = Mapping[str, int]


@dataclass(frozen=True)
class Command:
    """A QMP command."""

    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Part:
    """One piece. `descriptors` are those it refers to."""

    def argv(self, numbers: Descriptors) -> tuple[str, ...]:
        """The words of QEMU's command line."""
        raise NotImplementedError

    def plug(self) -> Command | None:
        """The command that adds it to a running machine; None where QEMU has none."""
        return None

    def unplug(self) -> Command | None:
        """The command that takes it away again."""
        return None

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return ()


def _resolve(value: Any, numbers: Descriptors) -> Any:
    if isinstance(value, Descriptor):
        return value.spelled.replace("{fd}", str(numbers[value.name]), 1)
    if isinstance(value, Mapping):
        return {key: _resolve(item, numbers) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolve(item, numbers) for item in value]
    return value


def _find(value: Any) -> Iterator[Descriptor]:
    if isinstance(value, Descriptor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _find(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find(item)


@dataclass(frozen=True)
class _JsonPart(Part):
    """An option that takes JSON on the command line."""

    option: ClassVar[str]
    #: QMP commands to add and to remove, and the argument that names it in the latter.
    adds: ClassVar[str]
    removes: ClassVar[str]
    name_key: ClassVar[str] = "id"

    props: Props

    def argv(self, numbers: Descriptors) -> tuple[str, ...]:
        return self.option, json.dumps(_resolve(self.props, numbers), separators=(",", ":"), ensure_ascii=False)

    def plug(self) -> Command:
        return Command(self.adds, _resolve(self.props, {d.name: -1 for d in self.descriptors}))

    def unplug(self) -> Command:
        return Command(self.removes, {self.name_key: self.props[self.name_key]})

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return tuple(_find(self.props))


@dataclass(frozen=True)
class DevicePart(_JsonPart):
    """-device; `props` starts with `driver` and holds `id`."""

    option = "-device"
    adds = "device_add"
    removes = "device_del"


@dataclass(frozen=True)
class ObjectPart(_JsonPart):
    """-object; `props` starts with `qom-type` and holds `id`."""

    option = "-object"
    adds = "object-add"
    removes = "object-del"


@dataclass(frozen=True)
class NetdevPart(_JsonPart):
    """-netdev; `props` starts with `type` and holds `id`."""

    option = "-netdev"
    adds = "netdev_add"
    removes = "netdev_del"


@dataclass(frozen=True)
class BlockdevPart(_JsonPart):
    """-blockdev; `props` starts with `driver` and holds `node-name`."""

    option = "-blockdev"
    adds = "blockdev-add"
    removes = "blockdev-del"
    name_key = "node-name"


def keyval(props: Props, numbers: Descriptors) -> str:
    """PROPS as QEMU's `key=value,…`, commas doubled, booleans as on and off."""

    def spell(value: Any) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(_resolve(value, numbers)).replace(",", ",,")

    return ",".join(f"{key}={spell(value)}" for key, value in props.items())


@dataclass(frozen=True)
class KeyvalPart(Part):
    """An option that takes `head,key=value,…` only: -machine, -accel, -cpu, -smp, -fsdev, -tpmdev, -chardev."""

    option: str
    head: str = ""
    props: Props = field(default_factory=dict)

    def argv(self, numbers: Descriptors) -> tuple[str, ...]:
        pieces = [self.head.replace(",", ",,")] if self.head else []
        if self.props:
            pieces.append(keyval(self.props, numbers))
        return self.option, ",".join(pieces)

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return tuple(_find(self.props))


@dataclass(frozen=True)
class OptionPart(Part):
    """Words as they are: `-nodefaults`, `-m 512`, what the user wrote in <qemu:commandline>."""

    words: tuple[str, ...]

    def argv(self, numbers: Descriptors) -> tuple[str, ...]:
        return self.words


def option(*words: str) -> OptionPart:
    """A part of plain words."""
    return OptionPart(words)


def argv(parts: Iterable[Part], numbers: Descriptors) -> list[str]:
    """The command line of PARTS, without the emulator."""
    return [word for part in parts for word in part.argv(numbers)]


def descriptors(parts: Iterable[Part]) -> list[Descriptor]:
    """Every descriptor that PARTS refer to, once."""
    return list(dict.fromkeys(d for part in parts for d in part.descriptors))
