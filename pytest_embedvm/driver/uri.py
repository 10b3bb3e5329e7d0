"""`qemu:///embed?root=/abs/dir`: a root, and what it is opened with, as a connection URI, and back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeGuard, get_args
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.errors import ConfigUnsupported, InternalError, InvalidArgument, NoConnect

SCHEME: Final = "qemu"
EMBED: Final = "/embed"


#: What a connection has besides QEMU's driver.
DriverName = Literal["network", "secret", "storage"]
#: Whose networks, secrets or storage pools a connection uses: its root's own, the host's, or nobody's.
Mode = Literal["private", "host", "none"]


@dataclass(frozen=True, kw_only=True)
class Uri:
    """What a connection URI says."""

    root: Path
    network: Mode = "private"
    secret: Mode = "private"  # noqa: S105 - no password
    storage: Mode = "private"
    #: A file in the syntax of libvirt's qemu.conf.
    config: Path | None = None

    @property
    def modes(self) -> dict[DriverName, Mode]:
        """Whose each driver is."""
        return {"network": self.network, "secret": self.secret, "storage": self.storage}

    @property
    def of_the_host(self) -> list[DriverName]:
        """The drivers that are the host's."""
        return [kind for kind, mode in self.modes.items() if mode == "host"]

    def __str__(self) -> str:
        return make_uri(self.root, network=self.network, secret=self.secret, storage=self.storage, config=self.config)


def make_uri(
    root: str | os.PathLike[str],
    *,
    network: Mode = "private",
    secret: Mode = "private",  # noqa: S107 - no password
    storage: Mode = "private",
    config: str | os.PathLike[str] | None = None,
) -> str:
    """The URI of ROOT, percent-encoded; `parse_uri` gives all of it back, whatever bytes the names hold.

    :param network, secret, storage: `private`, `host` or `none`; the default does not show in the URI.
    :param config: a configuration file for this opening, instead of the root's own etc/qemu.conf.
    :raise ConfigUnsupported: when ROOT or CONFIG is relative, or ROOT is the host's own `/`.
    :raise InvalidArgument: when a path cannot be one, or a mode is none of the three.
    """
    query = [f"root={_quote(_root(os.fspath(root)))}"]
    for name, mode in (("network", network), ("secret", secret), ("storage", storage)):
        if _mode(name, mode) != "private":
            query.append(f"{name}={mode}")
    if config is not None:
        query.append(f"config={_quote(_absolute('config', os.fspath(config)))}")
    return f"{SCHEME}://{EMBED}?{'&'.join(query)}"


def parse_uri(uri: str) -> Uri:
    """Read a connection URI.

    :raise NoConnect: when the scheme, or the host in it, belongs to another driver.
    :raise InternalError: when the path is not `/embed`.
    :raise InvalidArgument: when there is no root, a parameter is given twice, has a value that cannot be, or nobody
        knows it.
    :raise ConfigUnsupported: when the root or the configuration file is relative, or the root is the host's own `/`.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:  # an IPv6 bracket that does not close
        raise NoConnect(uri) from None
    if parts.scheme != SCHEME or parts.netloc:
        raise NoConnect(uri)
    if parts.path != EMBED:
        # libvirt: qemuConnectOpen
        raise InternalError(f"URI must be {SCHEME}://{EMBED}")
    given = dict(_parameters(parts.query))
    if "root" not in given:
        # libvirt: virConnectOpenInternal, for an embedded driver
        raise _invalid("Missing URI parameter 'root'")
    return Uri(
        root=Path(_root(given["root"])),
        network=_mode("network", given.get("network", "private")),
        secret=_mode("secret", given.get("secret", "private")),
        storage=_mode("storage", given.get("storage", "private")),
        config=Path(_absolute("config", given["config"])) if "config" in given else None,
    )


PARAMETERS: Final = ("root", "network", "secret", "storage", "config")


def _parameters(query: str) -> Iterator[tuple[str, str]]:
    # Not parse_qsl: it reads "+" as a space, and libvirt (virURIParseParams) does not.
    seen = set()
    for pair in filter(None, query.replace(";", "&").split("&")):
        encoded, _, value = pair.partition("=")
        name = unquote(encoded)
        if name not in PARAMETERS:
            raise _invalid(f"unknown URI parameter '{name}'; there are {', '.join(PARAMETERS)}")
        if name in seen:
            raise _invalid(f"URI parameter '{name}' is given more than once")
        seen.add(name)
        yield name, os.fsdecode(_bytes(name, value))


def _invalid(sentence: str) -> InvalidArgument:
    return InvalidArgument(sentence, origin=ErrorDomain.URI)


def _mode(name: str, word: str) -> Mode:
    if _is_mode(word):
        return word
    raise _invalid(f"URI parameter '{name}' may be {', '.join(get_args(Mode))}, not '{word}'")


def _is_mode(word: str) -> TypeGuard[Mode]:
    return word in get_args(Mode)


def _quote(path: str) -> str:
    return quote(os.fsencode(path), safe="/")


def _bytes(name: str, value: str) -> bytes:
    """VALUE decoded; a file name that is no text may stand in it as Python spells it."""
    try:
        return unquote_to_bytes(value.encode(errors="surrogateescape"))
    except UnicodeEncodeError:
        raise _invalid(f"{name} path must be text or bytes of a file name") from None


def _root(path: str) -> str:
    if os.path.realpath(_absolute("root", path)) == "/":
        raise ConfigUnsupported("root path must not be '/': it holds the host's own files", origin=ErrorDomain.NONE)
    return path


def _absolute(name: str, path: str) -> str:
    if "\0" in path:
        raise _invalid(f"{name} path must not contain a NUL character")
    if not os.path.isabs(path):  # noqa: PTH117 - bytes of a path that need not exist
        raise ConfigUnsupported(f"{name} path must be absolute", origin=ErrorDomain.NONE)
    return path
