"""`<graphics>`: a way to see the guest's screen."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.domain.devices._base import Context, Device
from pytest_embedvm.domain.devices.audio import Audio
from pytest_embedvm.domain.settings import FIRST_PORT, LAST_PORT, Settings
from pytest_embedvm.errors import ConfigUnsupported, InternalError
from pytest_embedvm.qemu.parts import (
    Command,
    Descriptor,
    Json,
    KeyvalPart,
    ObjectPart,
    Part,
    Password,
    SecretPart,
    SecretRef,
    SocketPlace,
)
from pytest_embedvm.xml.mapping import At
from pytest_embedvm.xml.scalars import Offered, Refusal, Scalar, Unsigned, Where, Whole, YesNo

#: The object with the certificates of the VNC server, what opens its key, and what its clients have to say.
_CREDENTIALS: Final = "vnc-tls-creds0"
_KEY_SECRET: Final = f"{_CREDENTIALS}-secret0"  # libvirt: qemuAliasForSecret
_PASSWORD: Final = "vnc-password-secret0"  # noqa: S105 - an object's name

_MOMENT: Final = "%Y-%m-%dT%H:%M:%S"

_TYPE: Final = Offered(
    ("vnc",),
    {kind: f"graphics type '{kind}' is not supported by this driver" for kind in ("sdl", "spice", "egl-headless")}
    | {"dbus": "graphics type 'dbus' is not supported by this driver"}
    | {kind: f"{kind} graphics are not supported with this QEMU" for kind in ("rdp", "desktop")},
)


# libvirt: virDomainGraphicsAuthDefParseXML, virDomainGraphicsDefParseXMLVNC
_CONNECTED: Final = Offered(
    ("keep",),
    dict.fromkeys(("fail", "disconnect"), "VNC supports connected='keep' only"),
    Refusal("unknown connected value {}", ConfigUnsupported),
)
# libvirt: qemuValidateDomainDeviceDefVNCGraphics
_LONGEST_PASSWORD: Final = 8


class _Moment(Scalar[datetime.datetime]):
    """A time in UTC, to the second."""

    def read(self, text: str, where: Where) -> datetime.datetime:
        try:
            return datetime.datetime.strptime(text, _MOMENT).replace(tzinfo=datetime.UTC)
        except ValueError:
            # libvirt: virDomainGraphicsAuthDefParseXML
            raise InternalError(
                f"cannot parse password validity time '{text}', expect YYYY-MM-DDTHH:MM:SS", origin=ErrorDomain.DOMAIN
            ) from None

    def write(self, value: datetime.datetime) -> str:
        return value.strftime(_MOMENT)


@dataclass(kw_only=True)
class ListenOn:
    """`<listen>`: an address, a unix socket, or nothing."""

    type: Literal["address", "network", "socket", "none"]
    address: str | None = None
    network: str | None = None
    socket: str | None = None


@dataclass(kw_only=True)
class Graphics(Device):
    alias_prefix: ClassVar[str] = "graphics"

    type: Annotated[str, _TYPE]
    port: Annotated[int | None, Whole(refusal=Refusal("cannot parse vnc port {}", InternalError), signed=True)] = None
    autoport: Annotated[bool | None, YesNo()] = None
    listen: str | None = None
    socket: str | None = None
    share_policy: Annotated[Literal["allow-exclusive", "force-shared", "ignore"] | None, At("@sharePolicy")] = None
    power_control: Annotated[bool | None, At("@powerControl"), YesNo()] = None
    passwd: str | None = field(default=None, repr=False)
    passwd_valid_to: Annotated[datetime.datetime | None, At("@passwdValidTo"), _Moment()] = None
    connected: Annotated[str | None, _CONNECTED] = None
    listens: Annotated[list[ListenOn], At("listen")] = field(default_factory=list)
    audio: Annotated[int | None, At("audio/@id"), Unsigned(positive=True)] = None
    #: Whether the socket is where the driver puts it, and so no part of the definition.
    own_socket: bool = field(default=False, metadata={"xml": False})
    #: Whether the address is the configuration's, and so no part of the definition.
    own_address: bool = field(default=False, metadata={"xml": False})
    #: Port and autoport as they were before the configuration gave it a socket instead.
    given_port: tuple[int | None, bool | None] | None = field(default=None, metadata={"xml": False})

    @property
    def is_display(self) -> bool:
        return True

    def own_alias(self, number: int) -> str | None:
        return None

    @property
    def first_listen(self) -> ListenOn:
        """Where it listens; QEMU's VNC server has one such place."""
        return self.listens[0]

    def complete(self, context: Context) -> None:
        # libvirt: virDomainGraphicsListensParseXML, virDomainGraphicsDefParseXMLVNC
        if self.passwd is None:
            self.passwd_valid_to = None
        if not self.listens and self.socket:
            self.listens = [ListenOn(type="socket", socket=self.socket)]
        elif not self.listens:
            self.listens = [ListenOn(type="address", address=self.listen)]
        first = self.first_listen
        if first.type in ("address", "network"):
            self._complete_address(first)
            return
        self.port = self.autoport = self.listen = None
        self.socket = first.socket = first.socket or self.socket if first.type == "socket" else None

    def _complete_address(self, first: ListenOn) -> None:
        if self.listen and first.address and self.listen != first.address:
            raise ConfigUnsupported(
                f"graphics 'listen' attribute '{self.listen}' must match 'address' attribute of first listen "
                f"element (found '{first.address}')"
            )
        self.listen = first.address = first.address or self.listen
        self.autoport = bool(self.autoport) or self.port in (None, -1, 0)
        self.port = -1 if self.autoport else self.port

    def check(self, context: Context) -> None:
        # libvirt: qemuValidateDomainDeviceDefGraphics, qemuBuildGraphicsVNCCommandLine
        if sum(isinstance(device, Graphics) for device in context.domain.devices.all) > 1:
            raise ConfigUnsupported(
                "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus) is supported",
                origin=ErrorDomain.QEMU,
            )
        length = len((self.passwd or "").encode())
        if length > _LONGEST_PASSWORD:
            raise ConfigUnsupported(
                f"VNC password is {length} characters long, only {_LONGEST_PASSWORD} permitted",
                origin=ErrorDomain.QEMU,
            )
        if len(self.listens) > 1:
            raise ConfigUnsupported("more than one <listen> of <graphics> is not supported by this driver")
        if self.first_listen.type == "network":
            raise ConfigUnsupported("listen type 'network' of <graphics> is not supported by this driver")
        if self.port is not None and self.port != -1 and not FIRST_PORT <= self.port <= LAST_PORT:
            raise ConfigUnsupported(f"vnc port must be in range [{FIRST_PORT},{LAST_PORT}]", origin=ErrorDomain.QEMU)

    def settle(self, context: Context) -> None:
        if self.first_listen.type == "address" and not self.listen:
            self._listen_as_configured(context.host.settings)
        if self.first_listen.type == "socket" and not self.socket:
            self.socket = self.first_listen.socket = context.host.path("vnc", context.domain.name, "vnc")
            self.own_socket = True

    def _listen_as_configured(self, settings: Settings) -> None:
        # libvirt: qemuProcessGraphicsSetupListen
        if settings.vnc_auto_unix_socket:
            self.given_port = self.port, self.autoport
            self.port = self.autoport = None
            self.first_listen.type = "socket"
        elif settings.vnc_listen:
            self.listen = self.first_listen.address = settings.vnc_listen
            self.own_address = True

    def forget_live(self) -> None:
        if self.own_socket:
            self.socket = self.first_listen.socket = None
        if self.own_address:
            self.listen = self.first_listen.address = None
        if self.given_port:
            self.first_listen.type = "address"
            self.port, self.autoport = self.given_port
        if self.autoport:
            self.port = -1

    def clone_obstacle(self) -> str | None:
        if self.first_listen.type == "socket" and not self.own_socket:
            return f"VNC socket '{self.socket}' is one thing of the host's"
        if self.first_listen.type == "address" and not self.autoport:
            return f"VNC port {self.port} is one thing of the host's"
        return None

    def parts(self, context: Context) -> Iterable[Part]:
        # libvirt: qemuBuildGraphicsVNCCommandLine
        props: dict[str, Json] = {}
        if self.share_policy:
            props["share"] = self.share_policy
        if self.power_control is not None:
            props["power-control"] = self.power_control
        audio = next((d for d in context.domain.devices.all if isinstance(d, Audio) and self._hears(d)), None)
        if audio:
            props["audiodev"] = audio.backend
        settings = context.host.settings
        if settings.vnc_tls:
            yield from _credentials(settings)
            props["tls-creds"] = _CREDENTIALS
        password = self._password(settings)
        if password:
            yield SecretPart(_PASSWORD, Password(password))
            props["password-secret"] = _PASSWORD
        elif password is not None:
            props["password"] = True  # until it is set, and nobody sets it, nobody gets in
        if settings.vnc_sasl:
            props["sasl"] = True
        yield self._server(props, settings)

    def commands(self, context: Context) -> Iterable[Command]:
        # libvirt: qemuDomainChangeGraphicsPasswords
        if self.passwd and self.passwd_valid_to:
            yield Command("expire_password", {"protocol": "vnc", "time": str(int(self.passwd_valid_to.timestamp()))})

    def _password(self, settings: Settings) -> str | None:
        """What a client has to say; None: nothing, and if it is empty nobody gets in."""
        # libvirt: qemuProcessInitPasswords
        return settings.vnc_password if self.passwd is None else self.passwd

    @property
    def has_password(self) -> bool:
        return self.passwd is not None

    def spell_password(self, spell: Callable[[str], str | None]) -> None:
        if self.passwd is not None:
            self.passwd = spell(self.passwd)

    def environment(self, context: Context) -> Mapping[str, str]:
        settings = context.host.settings
        # libvirt: qemuBuildGraphicsVNCCommandLine
        return {"SASL_CONF_PATH": settings.vnc_sasl_dir} if settings.vnc_sasl and settings.vnc_sasl_dir else {}

    def _hears(self, audio: Audio) -> bool:
        return self.audio in (None, audio.number)

    def _server(self, props: dict[str, Json], settings: Settings) -> Part:
        if self.socket:
            return KeyvalPart("-vnc", "", {"vnc": _through_directory(self.socket)} | props)
        if self.first_listen.type == "none":
            return KeyvalPart("-vnc", "none", props)
        host = self.listen or "127.0.0.1"  # libvirt: vnc_listen's default
        host = f"[{host}]" if ":" in host else host
        if self.autoport:
            # QEMU looks for a free port itself: between libvirt's looking and QEMU's binding somebody else may come
            least, most = settings.remote_display_port_min, settings.remote_display_port_max
            return KeyvalPart("-vnc", f"{host}:{least - FIRST_PORT}", {"to": most - FIRST_PORT} | props)
        return KeyvalPart("-vnc", f"{host}:{(self.port or 0) - FIRST_PORT}", props)


def _credentials(settings: Settings) -> Iterable[Part]:
    # libvirt: qemuBuildTLSx509BackendProps
    props: dict[str, Json] = {
        "qom-type": "tls-creds-x509",
        "id": _CREDENTIALS,
        "dir": settings.vnc_tls_x509_cert_dir,
        "endpoint": "server",
        "verify-peer": bool(settings.vnc_tls_x509_verify),
    }
    if settings.vnc_tls_x509_secret_uuid:
        yield SecretPart(_KEY_SECRET, SecretRef("tls", settings.vnc_tls_x509_secret_uuid, None))
        props["passwordid"] = _KEY_SECRET
    yield ObjectPart(props | ({"priority": settings.vnc_tls_priority} if settings.vnc_tls_priority else {}))


def _through_directory(path: str) -> Descriptor:
    """PATH as QEMU is told it: through a descriptor of its directory, so that no root is too long for a socket."""
    name = path.rpartition("/")[2]
    return Descriptor("vnc", SocketPlace(path), spelled=f"unix:/proc/self/fd/{{fd}}/{name}")
