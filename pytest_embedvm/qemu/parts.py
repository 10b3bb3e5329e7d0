"""The pieces of a virtual machine as QEMU names them: each renders as argv, as plug and as unplug.

In QEMU every option has a QMP twin that takes the same JSON: -device and device_add, -object and
object-add, -netdev and netdev_add, -blockdev and blockdev-add. What takes no JSON on the command
line (-chardev -machine -accel -fsdev -tpmdev, up to QEMU 7.2 at least) is spelled out here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, TypeAlias

from pytest_embedvm.units import Rates

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
    """A file or device node, or where there is none `otherwise`; `fault` is what is said when it cannot be opened."""

    path: str
    write: bool = False
    otherwise: str | None = None
    fault: str = "Failed to open file '{}'"


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


SecretUse: TypeAlias = Literal["volume", "ceph", "iscsi", "tls", "vtpm"]


@dataclass(frozen=True)
class SecretRef:
    """A secret of the secret driver's, by its uuid or by what it is for; `kind` is what it has to be for."""

    kind: SecretUse
    uuid: str | None
    usage: str | None


@dataclass(frozen=True)
class Swtpm:
    """One end of a socket pair whose other end is the control channel of a swtpm.

    `state` is the directory of what it remembers, which `secret` encrypts; `banks` are the hashes of its registers.
    """

    name: str
    version: Literal["1.2", "2.0"]
    state: str
    banks: tuple[str, ...] = ()
    secret: SecretRef | None = None


@dataclass(frozen=True)
class Card:
    """A unix socket bound at `path` and listening, to which `network` is connected: GUEST's card with this MAC."""

    path: str
    network: str
    mac: str
    guest: str
    portgroup: str | None = None
    #: None: those of the port group.
    rates: Rates | None = None


@dataclass(frozen=True)
class Tap:
    """A tap device of the host's, in `bridge`, for the card with this MAC; it ends with the last who has it open.

    The kernel chooses the number for a `%d` in `name`. `vnet_header` is for virtio cards.
    """

    bridge: str
    mac: str
    name: str
    vnet_header: bool


@dataclass(frozen=True)
class Password:
    """A secret that the domain, or the configuration, says itself."""

    text: str = field(repr=False)


Request: TypeAlias = Card | Listen | Connect | OpenFile | SocketPlace | Scratch | Companion | Swtpm | Tap


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
#: Descriptor names to what a QMP command calls them: by the name of `getfd`, or the number they have in QEMU.
DescriptorNames: TypeAlias = Mapping[str, str | int]


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

    def plug(self, names: DescriptorNames) -> Command | None:
        """The command that adds it to a running machine; None where QEMU has none."""
        return None

    def unplug(self) -> Command | None:
        """The command that takes it away again."""
        return None

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return ()

    @property
    def plugs_numbers(self) -> bool:
        """Whether `plug` wants the numbers of descriptors: QEMU knows their names on its main thread only."""
        return False


def _resolve(value: Any, numbers: Descriptors | DescriptorNames) -> Any:
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

    def plug(self, names: DescriptorNames) -> Command:
        return Command(self.adds, _resolve(self.props, names))

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

    @property
    def plugs_numbers(self) -> bool:
        # QEMU: qio_channel_socket_listen_async; when a name is not found, the guest's first packet ends QEMU 7.2
        return self.props["type"] == "stream"


@dataclass(frozen=True)
class BlockdevPart(_JsonPart):
    """-blockdev; `props` starts with `driver` and holds `node-name`."""

    option = "-blockdev"
    adds = "blockdev-add"
    removes = "blockdev-del"
    name_key = "node-name"


#: The object that decrypts all other secrets of a machine. libvirt: qemuDomainGetMasterKeyAlias
MASTER_KEY: Final = "masterKey0"


@dataclass(frozen=True)
class SecretPart(Part):
    """-object secret, whose value is not here: `sealed` makes the option of it that QEMU is given."""

    id: str
    value: SecretRef | Password

    def sealed(self, data: str, iv: str) -> ObjectPart:
        """The same with its value, encrypted by the machine's master key; both are base64."""
        # libvirt: qemuBuildSecretInfoProps
        props = {"qom-type": "secret", "id": self.id, "data": data, "keyid": MASTER_KEY, "iv": iv, "format": "base64"}
        return ObjectPart(props)

    def argv(self, numbers: Descriptors) -> tuple[str, ...]:
        return self.sealed("", "").argv(numbers)

    def unplug(self) -> Command:
        return self.sealed("", "").unplug()


def keyval(props: Props, numbers: Descriptors) -> str:
    """PROPS as QEMU's `key=value,…`, commas doubled, booleans as on and off."""

    def spell(value: Any) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(_resolve(value, numbers)).replace(",", ",,")

    return ",".join(f"{key}={spell(value)}" for key, value in props.items())


@dataclass(frozen=True)
class KeyvalPart(Part):
    """An option that takes `head,key=value,…` only: -machine, -accel, -cpu, -smp, -fsdev, -tpmdev."""

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


#: QEMU's backends of -chardev whose file has another name in chardev-add.
_CHARDEV_FILES: Final = {"file": "out", "pipe": "device", "serial": "device", "parallel": "device"}
#: What chardev-add calls as -chardev does, and takes beside what it connects to.
_CHARDEV_OPTIONS: Final = ("server", "wait", "telnet", "reconnect", "append", "logfile", "logappend", "reconnect-ms")


@dataclass(frozen=True)
class ChardevPart(KeyvalPart):
    """-chardev: its QMP twin takes JSON, of a shape of its own."""

    def plug(self, names: DescriptorNames) -> Command:
        # QEMU: ChardevBackend in qapi/char.json; libvirt: qemuMonitorJSONAttachCharDevGetProps
        data = {name: self.props[name] for name in _CHARDEV_OPTIONS if name in self.props}
        match self.head:
            case "socket":
                data["addr"] = self._address()
            case "udp":
                data["remote"] = _inet(self.props["host"], self.props["port"])
                data["local"] = _inet(self.props["localaddr"], self.props["localport"])
            case kind if kind in _CHARDEV_FILES:
                data[_CHARDEV_FILES[kind]] = self.props["path"]
        backend = {"type": self.head, "data": _resolve(data, names)}
        return Command("chardev-add", {"id": self.props["id"], "backend": backend})

    def unplug(self) -> Command:
        return Command("chardev-remove", {"id": self.props["id"]})

    def _address(self) -> Json:
        if "fd" in self.props:
            return {"type": "fd", "data": {"str": self.props["fd"]}}
        if "path" in self.props:
            return {"type": "unix", "data": {"path": self.props["path"]}}
        return _inet(self.props["host"], self.props["port"])


def _inet(host: Json, port: Json) -> dict[str, Json]:
    return {"type": "inet", "data": {"host": host, "port": port}}


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
