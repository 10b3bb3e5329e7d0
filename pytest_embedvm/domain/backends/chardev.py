"""Character devices: what a serial port, a console or a channel is connected to on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Final, Literal, TypeAlias

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InternalError, XMLError
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import ChardevPart, Connect, Descriptor, Json, Listen
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import OnOff, Refusal, YesNo

CharType: TypeAlias = Literal[
    "null", "vc", "pty", "dev", "file", "pipe", "stdio", "udp", "tcp", "unix",
    "spicevmc", "spiceport", "nmdm", "qemu-vdagent", "dbus",
]  # fmt: skip

#: What a unix socket's address holds, without the final zero (Linux: sun_path).
SUN_PATH_BYTES: Final = 107
#: Milliseconds in a second.
MS: Final = 1000

#: What `<source>` may say for each type; `path` of a pty is where a running domain's is, and read over.
_TAKES: Final[dict[str, frozenset[str]]] = {
    "pty": frozenset({"path"}),
    "dev": frozenset({"path"}),
    "file": frozenset({"path", "append"}),
    "pipe": frozenset({"path"}),
    "unix": frozenset({"mode", "path", "reconnect"}),
    "tcp": frozenset({"mode", "host", "service", "tls", "reconnect"}),
    "udp": frozenset({"mode", "host", "service"}),
}


@dataclass(kw_only=True)
class Reconnect:
    """`<reconnect>`: how many seconds after a connection was lost it is tried again."""

    enabled: Annotated[bool, YesNo()]
    timeout: int | None = None


@dataclass(kw_only=True)
class Source:
    """A `<source>`; a type takes some of these attributes."""

    master: str | None = None
    slave: str | None = None
    channel: str | None = None
    mode: Literal["bind", "connect"] | None = None
    host: str | None = None
    service: str | None = None
    path: str | None = None
    append: Annotated[bool | None, OnOff()] = None
    tls: Annotated[bool | None, YesNo()] = None
    reconnect: Reconnect | None = None

    @property
    def delay(self) -> int | None:
        """Seconds until a lost connection is tried again; None for never."""
        return self.reconnect.timeout if self.reconnect and self.reconnect.enabled else None


@dataclass(kw_only=True)
class Log:
    """`<log>`: a file that gets a copy of what the guest writes."""

    file: str | None = None
    append: Annotated[bool | None, OnOff()] = None


@dataclass(kw_only=True)
class Chardev:
    """The host's end of a character device: its type, its source, its log."""

    type: Annotated[CharType, Refusal("unknown type presented to host for character device: {}", ConfigUnsupported)] = (
        "pty"
    )
    sources: Annotated[list[Source], At("source")] = field(default_factory=list)
    protocol: Annotated[
        Literal["raw", "telnet", "telnets", "tls"] | None,
        At("protocol/@type"),
        Refusal("Unknown protocol '{}'", ConfigUnsupported),
    ] = None
    log: Log | None = None

    @property
    def path(self) -> str | None:
        """The file, device, or socket; of a pty, once the domain runs."""
        return self.sources[0].path if self.sources else None

    @property
    def of_the_host(self) -> str | None:
        """What of the host's it is, or its log: one thing, which two machines cannot have; None for its own."""
        if self.log and self.log.file:
            return f"the log file '{self.log.file}'"
        if self.type in ("null", "vc", "pty"):
            return None
        source = self.sources[0] if self.sources else Source()
        return f"{self.type} '{source.path or f'{source.host}:{source.service}'}'"

    def learn_pty(self, path: str) -> None:
        """QEMU has opened the pty at PATH."""
        self.sources = [Source(path=path)]

    def forget_live(self) -> None:
        """Drop where the pty of a running domain is."""
        if self.type == "pty":
            self.sources = []

    def complete(self) -> None:
        """Defaults, and what libvirt drops: the pty's path, a log without a file."""
        self.forget_live()
        if self.log and self.log.file is None:
            self.log = None  # libvirt: virDomainChrSourceDefFormat
        if self.type == "tcp":
            self.protocol = self.protocol or "raw"
        if self.type in ("unix", "tcp", "udp"):
            for source in self.sources:
                source.mode = source.mode or "connect"  # libvirt: virDomainChrSourceModeConnect

    def check(self) -> None:
        """Refuse what is incomplete, and what this driver cannot give.

        :raise InternalError: when the source lacks what the type needs: libvirt's class for it.
        :raise XMLError: when there are more sources than the type has.
        :raise ConfigUnsupported: naming the type or the attribute.
        """
        _check_type(self)
        _check_attributes(self)
        _check_number(self)
        _check_needs(self)
        for source in self.sources:
            _check_reconnect(source)

    def part(
        self, alias: str, capabilities: Capabilities, *, default_log: str | None = None, host_port: str = "serial"
    ) -> ChardevPart:
        """QEMU's -chardev for the device called ALIAS.

        :param default_log: a file that gets what the guest writes, if no `<log>` says another one.
        :param host_port: QEMU's backend for type 'dev'.
        """
        # libvirt: qemuBuildChardevStr
        name = chardev_id(alias)
        kind, props = _backend(self, name, host_port)
        delay = self.sources[0].delay if self.sources else None
        if delay is not None:
            milliseconds = capabilities.has_option("chardev", "reconnect-ms")
            props |= {"reconnect-ms": delay * MS} if milliseconds else {"reconnect": delay}
        return ChardevPart("-chardev", kind, {"id": name} | props | self._logging(default_log))

    def _logging(self, default_log: str | None) -> dict[str, Json]:
        if self.log and self.log.file:
            append: dict[str, Json] = {} if self.log.append is None else {"logappend": self.log.append}
            return {"logfile": self.log.file} | append
        return {"logfile": default_log, "logappend": True} if default_log else {}


def chardev_id(alias: str) -> str:
    """QEMU's id for the character device of the device called ALIAS."""
    return f"char{alias}"  # libvirt: qemuAliasChardevFromDevAlias


def _check_type(chardev: Chardev) -> None:
    channel = chardev.sources[0].channel if chardev.sources else None
    match chardev.type:
        case "spiceport" | "dbus" if channel is None:
            # libvirt: virDomainChrSourceDefValidate
            raise ConfigUnsupported("Missing source channel attribute for char device")
        case "spicevmc" | "spiceport":
            # libvirt: qemuValidateDomainChrSourceDef
            raise ConfigUnsupported(
                f"chardev '{chardev.type}' not supported without spice graphics", origin=ErrorDomain.QEMU
            )
        case "nmdm" | "qemu-vdagent" | "dbus":
            raise ConfigUnsupported(f"unsupported chardev '{chardev.type}'", origin=ErrorDomain.QEMU)
        case "stdio":
            raise ConfigUnsupported(
                "unsupported chardev 'stdio': QEMU's standard output is its log; use 'pty', 'unix' or 'file'",
                origin=ErrorDomain.QEMU,
            )


def _check_attributes(chardev: Chardev) -> None:
    takes = _TAKES.get(chardev.type, frozenset())
    for source in chardev.sources:
        for name, value in vars(source).items():
            if value is not None and name not in takes:
                raise ConfigUnsupported(
                    f"'{name}' of element <source> is not supported for character device type '{chardev.type}'"
                )
    if chardev.protocol and chardev.type != "tcp":
        raise ConfigUnsupported(
            f"element <protocol> with type '{chardev.protocol}' is not supported "
            f"for character device type '{chardev.type}'"
        )
    if chardev.protocol in ("telnets", "tls"):
        raise ConfigUnsupported(f"protocol '{chardev.protocol}' of a character device is not supported")
    if any(source.tls for source in chardev.sources):
        raise ConfigUnsupported("tls='yes' of element <source> of a character device is not supported")


def _check_number(chardev: Chardev) -> None:
    # libvirt: virDomainChrSourceDefParseXML
    most, words = (2, "two source elements are") if chardev.type == "udp" else (1, "one source element is")
    modes = [source.mode for source in chardev.sources]
    if len(modes) > most or (chardev.type == "udp" and len(set(modes)) < len(modes)):
        raise XMLError(f"only {words} allowed for character device", origin=ErrorDomain.DOMAIN)


def _check_needs(chardev: Chardev) -> None:
    # libvirt: virDomainChrSourceDefValidate
    source = chardev.sources[0] if chardev.sources else Source()
    match chardev.type:
        case "dev" | "file" | "pipe" | "unix" if not source.path:
            raise _missing("path")
        case "tcp" if not source.host:
            raise _missing("host")
        case "tcp" if not source.service:
            raise _missing("service")
        case "udp" if not _end(chardev, "connect").service:
            raise _missing("service")


def _missing(attribute: str) -> EmbedError:
    return InternalError(f"Missing source {attribute} attribute for char device", origin=ErrorDomain.DOMAIN)


def _check_reconnect(source: Source) -> None:
    if source.reconnect is None or not source.reconnect.enabled:
        return
    if source.reconnect.timeout is None:
        raise XMLError("Missing required attribute 'timeout' in element 'reconnect'")
    if source.mode == "bind":
        # libvirt: virDomainChrSourceReconnectDefValidate
        raise InternalError("chardev reconnect is possible only for connect mode", origin=ErrorDomain.DOMAIN)
    if source.path and len(source.path.encode(errors="surrogateescape")) > SUN_PATH_BYTES:
        raise ConfigUnsupported(
            f"<reconnect> to a unix socket whose path has more than {SUN_PATH_BYTES} bytes is not supported: "
            f"'{source.path}'"
        )


def _end(chardev: Chardev, mode: str) -> Source:
    return next((source for source in chardev.sources if source.mode == mode), Source())


def _backend(chardev: Chardev, name: str, host_port: str) -> tuple[str, dict[str, Json]]:
    """QEMU's name of the backend, and its properties after `id`."""
    source = chardev.sources[0] if chardev.sources else Source()
    match chardev.type:
        case "unix":
            return "socket", _unix(source, name)
        case "tcp":
            return "socket", _tcp(source, chardev.protocol)
        case "udp":
            return "udp", _udp(_end(chardev, "connect"), _end(chardev, "bind"))
        case "file":
            append: dict[str, Json] = {} if source.append is None else {"append": source.append}
            return "file", {"path": source.path} | append
        case "pipe":
            return "pipe", {"path": source.path}
        case "dev":
            return host_port, {"path": source.path}
    return chardev.type, {}


def _unix(source: Source, name: str) -> dict[str, Json]:
    path = source.path or ""
    if source.mode == "bind":
        # The listening socket is ours, so that its path may have any length and is there before QEMU is.
        return {"fd": Descriptor(name, Listen(path)), "server": True, "wait": False}
    if source.delay is not None:
        return {"path": path}  # QEMU itself connects again
    return {"fd": Descriptor(name, Connect(path))}


def _tcp(source: Source, protocol: str | None) -> dict[str, Json]:
    props: dict[str, Json] = {"host": source.host, "port": source.service}
    if protocol == "telnet":
        props["telnet"] = True
    return props | ({"server": True, "wait": False} if source.mode == "bind" else {})


def _udp(far: Source, near: Source) -> dict[str, Json]:
    return {
        "host": far.host or "",
        "port": far.service,
        "localaddr": near.host or "",
        "localport": near.service or "0",
    }
