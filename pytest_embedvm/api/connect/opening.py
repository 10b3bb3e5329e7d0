"""The ways to open a connection."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict, Unpack

from pytest_embedvm.api import arguments
from pytest_embedvm.api._object import Session, _run, answering
from pytest_embedvm.api.connect import virConnect
from pytest_embedvm.api.early_events import EarlyEvent, attach, checked
from pytest_embedvm.constants import ConnectFlags
from pytest_embedvm.driver import access
from pytest_embedvm.driver.client import Client, Options
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.uri import parse_uri
from pytest_embedvm.errors import NoConnect
from pytest_embedvm.loop import loop_thread

#: pytest shows the line that called, not these.
__tracebackhide__ = True


class OptionKeywords(TypedDict, total=False):
    """What the driver is told of it."""

    config: str | os.PathLike[str] | Mapping[str, object] | None
    debug: bool
    keep_running: bool


class Keywords(OptionKeywords, total=False):
    """What `open` takes besides libvirt-python's own arguments."""

    events: Iterable[EarlyEvent]


CONNECT = ConnectFlags.RO | ConnectFlags.NO_ALIASES


def _open(name: str | None, keywords: Keywords, *, readonly: bool) -> virConnect:
    if name is None:
        # libvirt would probe for a hypervisor here; what this opens is always a root somebody named.
        raise NoConnect("a connection without a URI; name a root, as in qemu:///embed?root=/absolute/path")
    if not isinstance(name, str):
        raise TypeError(f"virConnectOpen() argument 'name' must be str or None, not {type(name).__name__}")
    policy = access.find(access.EMBED)
    access.require(policy, "virConnectOpen", writes=not readonly)
    early, others = _split(**keywords)
    events, options = checked(early), Options(**others)
    loop, client = loop_thread(), Client(options, parse_uri(name))

    async def opened() -> virConnect:
        # Made here, so that the end of one that is interrupted, and has no owner, is a finalizer's.
        driver = await Driver.open(name, options)
        connection = virConnect(Session(name, driver, client, loop, policy, readonly=readonly))
        attach(connection, driver, events)
        driver.events.release()
        return connection

    return _run(loop, opened())


def _split(
    events: Iterable[EarlyEvent] = (), **others: Unpack[OptionKeywords]
) -> tuple[Iterable[EarlyEvent], OptionKeywords]:
    return events, others


def open(name: str | None = None, **keywords: Unpack[Keywords]) -> virConnect:
    """Open the root that the URI NAME says: `qemu:///embed?root=/absolute/path`; `embed.make_uri` makes one.

    No other URI is taken, and none is made up: nothing falls through to a libvirt daemon.

    :param config: configuration instead of the root's etc/qemu.conf: a file, or keys and values.
    :param debug: False: machines that this connection starts have no second monitor for others to look in.
    :param keep_running: True: machines that it starts without AUTO_DESTROY outlive the process, and are there again
        when the root is opened next.
    :param events: callbacks that are there before the connection is: each an event id, a callback and its opaque, as
        for `domainEventRegisterAny`. They are told what happened while nobody had the root open.
    :raise libvirtError: NO_CONNECT for other URIs, or none; SYSTEM_ERROR when another process has the root.
    """
    with answering():
        return _open(name, keywords, readonly=False)


def openReadOnly(name: str | None = None, **keywords: Unpack[Keywords]) -> virConnect:
    """Like `open`; what would change or reveal something raises OPERATION_DENIED.

    :raise libvirtError: as `open` does.
    """
    with answering():
        return _open(name, keywords, readonly=True)


def openAuth(uri: str | None, auth: list[Any] | None, flags: int = 0, **keywords: Unpack[Keywords]) -> virConnect:  # noqa: ARG001
    """Like `open`; AUTH is not needed, and never asked. VIR_CONNECT_RO makes it read-only.

    :raise libvirtError: as `open` does.
    """
    with answering():
        checked = arguments.known(flags, CONNECT, "qemuConnectOpen")
        return _open(uri, keywords, readonly=ConnectFlags.RO in checked)
