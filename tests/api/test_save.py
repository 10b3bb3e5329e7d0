"""What libvirt's layers say to saves and restores that cannot be: measured on libvirt 9.0."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.constants import ErrorDomain
from pytest_embedvm.libvirt import virConnect, virDomain

BOTH = libvirt.VIR_DOMAIN_SAVE_RUNNING | libvirt.VIR_DOMAIN_SAVE_PAUSED
EXCLUSIVE = "Flags 'VIR_DOMAIN_SAVE_RUNNING' and 'VIR_DOMAIN_SAVE_PAUSED' are mutually exclusive"
UNKNOWN = "unsupported flags ({}) in function {}"


@pytest.mark.parametrize(
    ("call", "code", "origin", "message"),
    [
        (lambda d, _: d.save(None), 8, 20, "to in virDomainSave must not be NULL"),
        (lambda d, _: d.saveFlags("/x", None, BOTH), 8, 20, EXCLUSIVE),
        (lambda d, _: d.saveFlags("/x", None, 1 << 20), 8, 10, UNKNOWN.format("0x100000", "qemuDomainSaveFlags")),
        (lambda d, _: d.managedSave(BOTH), 8, 20, EXCLUSIVE),
        (lambda d, _: d.coreDump(None), 8, 20, "to in virDomainCoreDump must not be NULL"),
        (lambda d, _: d.coreDump("/x", 1 << 20), 8, 10, UNKNOWN.format("0x100000", "qemuDomainCoreDumpWithFormat")),
        (lambda d, _: d.coreDump("/x", 3), 8, 20, "Flags 'VIR_DUMP_CRASH' and 'VIR_DUMP_LIVE' are mutually exclusive"),
        (lambda d, _: d.coreDumpWithFormat("/x", 99, 16), 8, 20, "dumpformat '99' is not supported"),
        (lambda _, c: c.restoreFlags("/x", None, BOTH), 8, 20, EXCLUSIVE),
        (lambda _, c: c.saveImageGetXMLDesc("/x", 64), 8, 10, UNKNOWN.format("0x40", "qemuDomainSaveImageGetXMLDesc")),
        (lambda _, c: c.saveImageGetXMLDesc("/none"), 38, 10, "Failed to open file '/none': No such file or directory"),
        (lambda _, c: c.restore("/none"), 38, 10, "Failed to open file '/none': No such file or directory"),
    ],
)
def test_what_is_refused(
    conn: virConnect, call: Callable[[virDomain, virConnect], Any], code: int, origin: int, message: str
) -> None:
    domain = conn.createXML("a")
    with pytest.raises(libvirt.libvirtError) as caught:
        call(domain, conn)
    error = caught.value
    assert (error.get_error_code(), error.get_error_domain(), str(error)) == (code, ErrorDomain(origin), message)


def test_a_name_is_one_from_where_the_process_is(
    conn: virConnect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "image").write_bytes(b"x" * 5000)
    with pytest.raises(libvirt.libvirtError, match="operation failed: image magic is incorrect"):
        conn.saveImageGetXMLDesc("image")
