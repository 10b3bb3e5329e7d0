"""The record of a machine as XML: libvirt's `<domstatus>`; what that has no element for stands in `<embedvm>`."""

from __future__ import annotations

import os
import string
import uuid
from collections.abc import Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from lxml import etree

from pytest_embedvm.constants import (
    DomainCrashedReason,
    DomainPausedReason,
    DomainPMSuspendedReason,
    DomainRunningReason,
    DomainShutdownReason,
    DomainShutoffReason,
    DomainState,
)
from pytest_embedvm.domain.host import Volume
from pytest_embedvm.driver.ports import Port
from pytest_embedvm.driver.restart.record import BlockJob, Companion, Pending, Record
from pytest_embedvm.driver.state import Status
from pytest_embedvm.errors import XMLError
from pytest_embedvm.qemu.identity import Identity
from pytest_embedvm.xml import document
from pytest_embedvm.xml.document import Element

VERSION: Final = "1"

_REASONS: Final[Mapping[DomainState, type[IntEnum]]] = {
    DomainState.RUNNING: DomainRunningReason,
    DomainState.PAUSED: DomainPausedReason,
    DomainState.SHUTDOWN: DomainShutdownReason,
    DomainState.SHUTOFF: DomainShutoffReason,
    DomainState.CRASHED: DomainCrashedReason,
    DomainState.PMSUSPENDED: DomainPMSuspendedReason,
}
#: Where libvirt's words are not its names'. libvirt: virDomainPausedReason
_WORDS: Final[Mapping[tuple[DomainState, IntEnum], str]] = {
    (DomainState.PAUSED, DomainPausedReason.CRASHED): "panicked",
    (DomainState.PAUSED, DomainPausedReason.POSTCOPY): "post-copy",
    (DomainState.PAUSED, DomainPausedReason.POSTCOPY_FAILED): "post-copy failed",
    (DomainState.PMSUSPENDED, DomainPMSuspendedReason.PMSUSPENDED_UNKNOWN): "unknown",
}
#: What stands in an attribute as it is: a path need not be text, and a word may hold what XML cannot.
_PLAIN: Final = string.punctuation.replace("%", "") + " "


def format(record: Record) -> str:  # noqa: A001 - parse() and format() are this project's pair of words
    """RECORD as text."""
    state = record.status.state
    # libvirt: virDomainObjFormat, qemuDomainObjPrivateXMLFormat
    pid = str(record.process.pid if record.process else 0)
    root = etree.Element("domstatus", state=state.name.lower(), reason=_word(state, record.status.reason), pid=pid)
    _add(root, "fakereboot", value=_yes_no(record.fake_reboot))
    jobs = _add(root, "blockjobs", active=_yes_no(bool(record.jobs)))
    for job in record.jobs:
        _add(_add(jobs, "blockjob", name=job.name, type="pull", state="running"), "disk", dst=job.disk)
    _format_own(record, _add(root, "embedvm", version=VERSION))
    return document.format(root).replace("</domstatus>\n", f"{record.domain}</domstatus>\n")


def _add(parent: Element, tag: str, **attributes: str | None) -> Element:
    """A new element below PARENT; what is None is no attribute."""
    return etree.SubElement(parent, tag, {name: quoted for name, quoted in attributes.items() if quoted is not None})


def _format_own(record: Record, own: Element) -> None:
    own.set("started", f"{record.started:.3f}")
    own.set("keep", _yes_no(record.kept))
    own.set("announced", _yes_no(record.announced))
    _add(own, "log", path=_encode(record.log), start=str(record.log_start))
    if record.process:
        _add(own, "process", **_format_identity(record.process))
    for companion in record.companions:
        _add(own, "companion", name=_encode(companion.name), **_format_identity(companion.identity))
    for word in record.argv:
        _add(own, "word", text=_encode(word))
    for port in record.ports:
        _add(
            own,
            "port",
            alias=_encode(port.alias),
            name=_encode_if(port.name),
            socket=_encode_if(port.socket),
            log=_encode_if(port.log),
        )
    for path in record.files:
        _add(own, "file", path=_encode(path))
    for number in record.detected:
        _add(own, "detected", index=str(number))
    for number, volume in record.volumes:
        _add(own, "volume", index=str(number), path=_encode(volume.path), type=volume.type)
    for event in record.events:
        fields = _add(own, "event", kind=event.kind)
        for name, value in event.fields.items():
            _add(fields, "field", name=name, value=_encode(value))


def _format_identity(identity: Identity) -> dict[str, str]:
    return {"pid": str(identity.pid), "ticks": str(identity.start_ticks), "boot": identity.boot}


def parse(text: str) -> Record:
    """What TEXT puts on record.

    :raise EmbedError: when it is no status file, or one of a version that is not known here.
    """
    root = document.parse(text, root="domstatus", name="domain_status")
    own, domain = root.find("embedvm"), root.find("domain")
    if own is None or domain is None or own.get("version") != VERSION:
        raise XMLError("it is no status of this version")
    try:
        return _parse(root, own, domain)
    except (KeyError, ValueError) as error:
        raise XMLError(f"it is no status: {error}") from None


def _parse(root: Element, own: Element, domain: Element) -> Record:
    process, log = own.find("process"), own.find("log")
    if log is None:
        raise KeyError("log")
    return Record(
        name=domain.findtext("name") or "",
        uuid=uuid.UUID(domain.findtext("uuid") or ""),
        id=int(domain.get("id", "-1")),
        status=_status(root),
        process=None if process is None else _identity(process),
        started=float(_need(own, "started")),
        kept=own.get("keep") == "yes",
        announced=own.get("announced") == "yes",
        fake_reboot=root.find("fakereboot[@value='yes']") is not None,
        log=Path(_decode(_need(log, "path"))),
        log_start=int(_need(log, "start")),
        argv=tuple(_decode(_need(word, "text")) for word in own.iterfind("word")),
        ports=tuple(map(_port, own.iterfind("port"))),
        files=tuple(Path(_decode(_need(file, "path"))) for file in own.iterfind("file")),
        companions=tuple(Companion(_decode(_need(c, "name")), _identity(c)) for c in own.iterfind("companion")),
        jobs=tuple(_jobs(root)),
        detected=tuple(int(_need(link, "index")) for link in own.iterfind("detected")),
        volumes=tuple(map(_volume, own.iterfind("volume"))),
        events=tuple(map(_pending, own.iterfind("event"))),
        domain=etree.tostring(domain, encoding="unicode", with_tail=False) + "\n",
    )


def _status(root: Element) -> Status:
    state = DomainState[_need(root, "state").upper()]
    for reason in _REASONS[state]:
        if _word(state, reason) == root.get("reason"):
            return Status(state, reason)
    raise KeyError(f"no reason {root.get('reason')}")


def _jobs(root: Element) -> Iterator[BlockJob]:
    for job in root.iterfind("blockjobs/blockjob"):
        disk = job.find("disk")
        if disk is not None:
            yield BlockJob(_need(job, "name"), _need(disk, "dst"))


def _port(port: Element) -> Port:
    name, socket, log = (_decode_if(port.get(key)) for key in ("name", "socket", "log"))
    return Port(
        alias=_decode(_need(port, "alias")),
        name=name,
        socket=Path(socket) if socket else None,
        log=Path(log) if log else None,
    )


def _volume(volume: Element) -> tuple[int, Volume]:
    found = Volume(
        path=_decode(_need(volume, "path")),
        type="block" if _need(volume, "type") == "block" else "file",
    )
    return int(_need(volume, "index")), found


def _pending(event: Element) -> Pending:
    fields = {_need(field, "name"): _decode(_need(field, "value")) for field in event.iterfind("field")}
    return Pending(_need(event, "kind"), fields)


def _identity(element: Element) -> Identity:
    return Identity(int(_need(element, "pid")), int(_need(element, "ticks")), _need(element, "boot"))


def _need(element: Element, attribute: str) -> str:
    value = element.get(attribute)
    if value is None:
        raise KeyError(f"{element.tag} has no {attribute}")
    return value


def _word(state: DomainState, reason: int) -> str:
    known = _REASONS[state](reason)
    return _WORDS.get((state, known)) or known.name.lower().replace("_", " ")


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _encode(text: str | Path) -> str:
    return quote(os.fsencode(text), safe=_PLAIN)


def _encode_if(text: str | Path | None) -> str | None:
    return None if text is None else _encode(text)


def _decode(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))


def _decode_if(text: str | None) -> str | None:
    return None if text is None else _decode(text)
