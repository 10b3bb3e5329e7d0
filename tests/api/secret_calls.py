"""Calls about secrets, with their answers: of whichever libvirt the connection is. Alone, it asks the real one."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

U, V, W, X = (f"{n}1111111-2222-3333-4444-555555555555" for n in (1, 2, 3, 4))
VOLUME = "<usage type='volume'><volume>{}</volume></usage>"
CEPH = "<usage type='ceph'><name>{}</name></usage>"

#: What is defined, one after the other.
XML = [
    "", "<foo/>", "<secret>", "<secret ephemeral='maybe'/>", "<secret private='x'/>",
    f"<secret private=''><uuid>{X}</uuid></secret>", "<secret><uuid>abc</uuid></secret>",
    f"<secret><uuid>{U[:-1]}g</uuid></secret>",
    "<secret><usage/></secret>", "<secret><usage type=''/></secret>", "<secret><usage type='foo'/></secret>",
    f"<secret><uuid>{W}</uuid><usage type='none'/></secret>",
    *(f"<secret><usage type='{kind}'/></secret>" for kind in ("volume", "ceph", "iscsi", "tls", "vtpm")),
    f"<secret><uuid>{U.upper()}</uuid>{VOLUME.format('/a')}<junk a='1'/></secret>",
    f"<secret><uuid>{U}</uuid>{VOLUME.format('/b')}</secret>",
    f"<secret><uuid>{V}</uuid>{VOLUME.format('/a')}</secret>",
    f"<secret><uuid>{U}</uuid></secret>",
    f"<secret><uuid>{V}</uuid><description>d &lt; e</description>{CEPH.format(' /a ')}</secret>",
    f"<secret><uuid>{U}</uuid>{CEPH.format('/a')}</secret>",
    f"<secret private='yes'><uuid>{U}</uuid>{VOLUME.format('/a')}</secret>",
    f"<secret><uuid>{U}</uuid>{VOLUME.format('/a')}</secret>",
    f"<secret private='yes'><uuid>{U}</uuid><description/>{VOLUME.format('/a')}</secret>",
]  # fmt: skip


def answers(conn: Any, libvirt: Any) -> dict[str, Any]:
    """What CONN says to each call: a value, or code, domain and sentence of the error."""
    found: dict[str, Any] = {}
    for number, (label, call) in enumerate(_calls(conn)):
        try:
            answer = call()
        except libvirt.libvirtError as error:
            answer = [error.get_error_code(), error.get_error_domain(), error.get_error_message()]
        if hasattr(answer, "XMLDesc"):
            answer = [answer.XMLDesc(), answer.UUIDString(), answer.usageType(), answer.usageID()]
        found[f"{number} {label}"] = answer.decode("latin-1") if isinstance(answer, bytes) else answer
    return found


def _calls(conn: Any) -> Iterator[tuple[str, Callable[[], Any]]]:
    for xml in XML:
        yield xml, lambda xml=xml: conn.secretDefineXML(xml)
    yield "flags", lambda: conn.secretDefineXML("<secret/>", 2)
    yield "NULL", lambda: conn.secretDefineXML(None)
    for kind, usage in ((0, ""), (1, "nope"), (1, "/a"), (2, "/a"), (2, " /a "), (5, "x"), (99, "x"), (1, None)):
        yield f"usage {kind} {usage}", lambda kind=kind, usage=usage: conn.secretLookupByUsage(kind, usage)
    for text in (U, U.replace("-", ""), U.replace("1", "9"), "zzz", "", None):
        yield f"uuid {text}", lambda text=text: conn.secretLookupByUUIDString(text)
    yield "uuid", lambda: conn.secretLookupByUUID(b"a" * 16)
    for flags in (*range(16), 16, 255):
        yield f"all {flags}", lambda flags=flags: sorted(s.UUIDString() for s in conn.listAllSecrets(flags))
    yield "list", lambda: sorted(conn.listSecrets())
    yield "number", conn.numOfSecrets
    secret = conn.secretLookupByUUIDString(V)
    yield "no value", secret.value
    for value in (b"abc\0\xff", "text", b"", b"again"):
        yield f"set {value!r}", lambda value=value: secret.setValue(value)
        yield "get", secret.value
    yield "set NULL", lambda: secret.setValue(None)
    yield "set flags", lambda: secret.setValue(b"x", 1)
    yield "get flags", lambda: secret.value(1)
    yield "XML flags", lambda: secret.XMLDesc(1)
    yield "defined anew", lambda: conn.secretDefineXML(f"<secret><uuid>{V}</uuid>{CEPH.format(' /a ')}</secret>")
    yield "its value stays", secret.value


def _main(root: Path) -> None:
    import libvirt

    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_events, args=(libvirt,), daemon=True).start()
    json.dump(answers(libvirt.open(f"secret:///embed?root={root}"), libvirt), sys.stdout)


def _events(libvirt: Any) -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
