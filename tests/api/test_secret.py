"""virSecret and its kin, against a real root; and held against libvirt's own secret driver."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_embedvm import libvirt
from pytest_embedvm.embed import make_uri
from tests.api import secret_calls
from tests.api.test_events import Calls

ONE = "11111111-1111-1111-1111-111111111111"
XML = f"<secret><uuid>{ONE}</uuid><usage type='tls'><name>t</name></usage></secret>"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[libvirt.virConnect]:
    with libvirt.open(make_uri(tmp_path / "root")) as connection:
        yield connection


def test_the_life_of_a_secret(root: libvirt.virConnect) -> None:
    secret = root.secretDefineXML(XML)
    assert secret.connect() is root
    assert secret.setValue("ä") == 0
    assert secret.value() == "ä".encode()
    for found in (
        root.secretLookupByUUID(secret.UUID()),
        root.secretLookupByUUIDString(secret.UUIDString()),
        root.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_TLS, "t"),
    ):
        assert (found.UUIDString(), found.usageType(), found.usageID()) == (ONE, 4, "t")
    assert secret.undefine() == 0
    for call in (secret.XMLDesc, secret.value, secret.undefine, lambda: secret.setValue(b"x")):
        with pytest.raises(libvirt.libvirtError, match=f"no secret with matching uuid '{ONE}'") as caught:
            call()
        assert caught.value.get_error_code() == libvirt.VIR_ERR_NO_SECRET
        assert caught.value.get_error_domain() == libvirt.VIR_FROM_SECRET
    assert (secret.UUIDString(), secret.usageType(), secret.usageID()) == (ONE, 4, "t")


def test_a_private_value_is_refused(root: libvirt.virConnect) -> None:
    secret = root.secretDefineXML("<secret private='yes'/>")
    secret.setValue(b"x")
    with pytest.raises(libvirt.libvirtError, match=r"^Invalid secret: secret is private$") as caught:
        secret.value()
    assert caught.value.get_error_code() == libvirt.VIR_ERR_INVALID_SECRET


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, {"p", "e", "n"}),
        (libvirt.VIR_CONNECT_LIST_SECRETS_EPHEMERAL, {"e"}),
        (libvirt.VIR_CONNECT_LIST_SECRETS_NO_EPHEMERAL, {"p", "n"}),
        (libvirt.VIR_CONNECT_LIST_SECRETS_PRIVATE, {"p"}),
        (libvirt.VIR_CONNECT_LIST_SECRETS_NO_PRIVATE | libvirt.VIR_CONNECT_LIST_SECRETS_NO_EPHEMERAL, {"n"}),
        (libvirt.VIR_CONNECT_LIST_SECRETS_PRIVATE | libvirt.VIR_CONNECT_LIST_SECRETS_NO_PRIVATE, {"p", "e", "n"}),
    ],
)
def test_lists_those_that_match(root: libvirt.virConnect, flags: int, expected: set[str]) -> None:
    for name, attribute in (("p", "private='yes'"), ("e", "ephemeral='yes'"), ("n", "")):
        root.secretDefineXML(f"<secret {attribute}><usage type='ceph'><name>{name}</name></usage></secret>")
    assert {secret.usageID() for secret in root.listAllSecrets(flags)} == expected
    assert root.numOfSecrets() == len(root.listSecrets()) == 3


def test_a_read_only_connection_reveals_nothing(tmp_path: Path) -> None:
    uri = make_uri(tmp_path / "root")
    with libvirt.open(uri) as writer, libvirt.openReadOnly(uri) as reader:
        writer.secretDefineXML(XML).setValue(b"x")
        secret = reader.secretLookupByUUIDString(ONE)
        assert secret.XMLDesc() == writer.secretLookupByUUIDString(ONE).XMLDesc()
        for call in (secret.value, secret.undefine, lambda: secret.setValue(b"y"), lambda: reader.secretDefineXML(XML)):
            with pytest.raises(libvirt.libvirtError, match="read only access prevents virSecret"):
                call()


def test_roots_do_not_know_each_others(tmp_path: Path) -> None:
    with libvirt.open(make_uri(tmp_path / "a")) as a, libvirt.open(make_uri(tmp_path / "b")) as b:
        a.secretDefineXML(XML)
        assert (a.numOfSecrets(), b.numOfSecrets()) == (1, 0)


def test_events_are_told_in_order(root: libvirt.virConnect) -> None:
    every, changed, of_one = Calls(), Calls(), Calls()
    number = root.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, every, "opaque")
    root.secretEventRegisterAny(None, libvirt.VIR_SECRET_EVENT_ID_VALUE_CHANGED, changed, None)
    secret = root.secretDefineXML(XML)
    root.secretEventRegisterAny(secret, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, of_one, None)
    secret.setValue(b"x")
    root.secretDefineXML("<secret/>")
    root.secretDefineXML(XML)
    secret.undefine()
    defined, undefined = (libvirt.VIR_SECRET_EVENT_DEFINED, 0), (libvirt.VIR_SECRET_EVENT_UNDEFINED, 0)
    told = [every.next() for _ in range(4)]
    assert [(event, detail) for _, _, event, detail, _ in told] == [defined, defined, defined, undefined]
    assert [told[n][1].UUIDString() for n in (0, 2, 3)] == [ONE] * 3
    assert {(conn, opaque) for conn, *_, opaque in told} == {(root, "opaque")}
    assert [of_one.next()[2:4] for _ in range(2)] == [defined, undefined]
    conn, of, _ = changed.next()
    assert (conn, of.UUIDString()) == (root, ONE)
    assert changed.empty()
    root.secretEventDeregisterAny(number)
    with pytest.raises(libvirt.libvirtError, match=f"could not find event callback {number} for deletion"):
        root.secretEventDeregisterAny(number)
    with pytest.raises(libvirt.libvirtError, match="no secret with matching uuid"):
        root.secretEventRegisterAny(secret, libvirt.VIR_SECRET_EVENT_ID_LIFECYCLE, print, None)


def test_it_answers_as_libvirts_own_driver_does(root: libvirt.virConnect, tmp_path: Path) -> None:
    """What libvirt 9.0 crashes of is not asked: `undefine`, and a first definition that is ephemeral."""
    pytest.importorskip("libvirt")
    asked = subprocess.run(
        [sys.executable, secret_calls.__file__, tmp_path / "theirs"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "no connection driver available" in asked.stderr:
        pytest.skip("libvirt's secret driver is not installed")
    assert asked.returncode == 0, asked.stderr
    theirs: dict[str, Any] = json.loads(asked.stdout)
    ours = secret_calls.answers(root, libvirt)
    assert json.loads(json.dumps(ours)) == theirs
