"""Secrets stay secret: a test uses them in every way there is and fails, and nothing that it leaves holds one."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.driver.config.test_live import certify, encrypt_key
from tests.fakes.luks import make_luks
from tests.plugin.conftest import TINY

INNER = """
    import contextlib
    import json
    import os
    import shutil
    from pathlib import Path

    import pytest

    from pytest_embedvm import libvirt, libvirt_qemu

    HERE = Path(os.environ["CANARY"])
    VALUE, WRONG, PASSWORD = ((HERE / name).read_text() for name in ("value", "wrong", "password"))
    USAGE = {"volume": "volume", "ceph": "name", "iscsi": "target", "tls": "name", "vtpm": "name"}
    UUID = "11111111-2222-3333-4444-555555555555"
    ROOM = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 9))
    DISK = (
        "<disk type='file'><driver type='raw'/><source file='%s'/><target dev='%s' bus='%s'/>"
        "<encryption format='luks'><secret type='passphrase' usage='/v'/></encryption></disk>"
    )

    def seen():
        "What other processes are shown of each."
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                yield (process / "cmdline").read_bytes()
                if b"qemu-system" in (process / "cmdline").read_bytes():
                    yield (process / "environ").read_bytes()

    def keep(name, data):
        (HERE / "kept" / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    def test_it(embedvm_conn, embedvm_root, tiny_xml):
        for kind, element in USAGE.items():
            usage = f"<usage type='{kind}'><{element}>/v</{element}></usage>"
            number = f"<uuid>{UUID}</uuid>" if kind == "tls" else ""
            secret = embedvm_conn.secretDefineXML(f"<secret private='yes'>{number}{usage}</secret>")
            secret.setValue(VALUE)
        hidden = embedvm_conn.secretDefineXML("<secret ephemeral='yes' private='yes'/>")
        hidden.setValue(VALUE)
        errors = []
        for wrong in (hidden.value, lambda: hidden.setValue(VALUE, 7)):
            with pytest.raises(libvirt.libvirtError) as caught:
                wrong()
            errors.append(str(caught.value))

        encrypted = DISK % (HERE / "volume", "vda", "virtio")
        display = f"<graphics type='vnc' passwd='{PASSWORD}'/>"
        xml = tiny_xml.replace("</devices>", ROOM + encrypted + display + "</devices>")
        volume = embedvm_conn.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "/v")
        volume.setValue(WRONG)
        with pytest.raises(libvirt.libvirtError, match="Invalid password") as caught:
            embedvm_conn.createXML(xml)
        errors.append(str(caught.value))
        volume.setValue(VALUE)
        with pytest.raises(libvirt.libvirtError, match="VNC password is") as caught:
            embedvm_conn.defineXML(xml.replace(PASSWORD, PASSWORD + "x"))
        errors.append(str(caught.value))

        embedvm_conn.storagePoolLookupByName("default").createXML(
            "<volume><name>vol</name><capacity unit='MiB'>1</capacity><target><format type='qcow2'/>"
            "<encryption format='luks'><secret type='passphrase' usage='/v'/></encryption></target></volume>"
        )
        domain = embedvm_conn.defineXML(xml)
        domain.create()
        plugged = DISK % (HERE / "second", "vdb", "virtio")
        domain.attachDevice(plugged)
        libvirt_qemu.qemuMonitorCommand(
            domain, json.dumps({"execute": "set_password", "arguments": {"protocol": "vnc", "password": PASSWORD}}), 0
        )
        keep("errors", "\\n".join(errors))
        keep("processes", b"\\n".join(seen()))
        keep("xml", domain.XMLDesc(0) + domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
        keep("secrets", "".join(secret.XMLDesc() for secret in embedvm_conn.listAllSecrets()))
        keep("native", embedvm_conn.domainXMLToNative("qemu-argv", xml, 0))
        assert PASSWORD in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)
        for path in embedvm_root.rglob("*"):
            if path.is_file():
                keep("root-" + str(path.relative_to(embedvm_root)).replace("/", "+"), path.read_bytes())
        raise AssertionError("on purpose")
"""


def spellings(secret: str) -> Iterator[bytes]:
    """SECRET as it is, and as it may stand in something: hexadecimal, or base64 from any of its bits on."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    for shift in range(3):
        # without the characters at both ends that hold bits of its neighbours
        spelled = base64.b64encode(b"\0" * shift + raw)
        yield spelled[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]


def holding(places: dict[str, bytes], secret: str) -> list[str]:
    """Which of PLACES hold SECRET."""
    return [name for name, data in places.items() if any(spelled in data for spelled in spellings(secret))]


def test_every_spelling_is_found() -> None:
    for before in (b"", b"x", b"xy", b"xyz"):
        text = base64.b64encode(before + b"open sesame" + b"after")
        assert holding({"there": text}, "open sesame") == ["there"]
        assert holding({"there": (before + b"open sesame").hex().encode()}, "open sesame") == ["there"]
        assert holding({"there": text}, "open barley") == []


def test_a_canary_is_nowhere(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    canaries = {"value": secrets.token_hex(16), "wrong": secrets.token_hex(16), "password": secrets.token_hex(4)}
    here = tmp_path / "canary"
    (here / "kept").mkdir(parents=True)
    for name, canary in canaries.items():
        (here / name).write_text(canary)
    for name in ("volume", "second"):
        make_luks(here / name, canaries["value"].encode())
    monkeypatch.setenv("CANARY", str(here))
    configure = ""
    if shutil.which("openssl"):
        certificates = certify(here / "certificates")
        encrypt_key(certificates / "server-key.pem", canaries["value"].encode())
        configure = (
            f"vnc_tls = 1\nvnc_tls_x509_cert_dir = '{certificates}'\n"
            "vnc_tls_x509_secret_uuid = '11111111-2222-3333-4444-555555555555'\n"
        )
    pytester.makeconftest(
        f"""
        import pytest

        @pytest.fixture
        def tiny_xml():
            return {TINY.format(name="tiny")!r}

        @pytest.fixture
        def embedvm_root(embedvm_root):
            (embedvm_root / "etc").mkdir(mode=0o700)
            (embedvm_root / "etc/qemu.conf").write_text({configure!r})
            return embedvm_root
        """
    )
    pytester.makepyfile(INNER)
    result = pytester.runpytest_subprocess("--embedvm", "--log-level=DEBUG", "-vv", "-rA")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*AssertionError: on purpose*"])

    places = {"stdout": result.stdout.str().encode(), "stderr": result.stderr.str().encode()}
    for folder in (here / "kept", pytester.path / "test-results"):
        places |= {f"{folder.name}/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    for name in (
        "kept/processes", "kept/errors", "kept/xml", "kept/native", "kept/root-etc+qemu+tiny.xml",
        "kept/root-run+qemu+tiny.xml", "kept/root-log+qemu+tiny.log", "kept/root-lib+secrets+master-key",
    ):  # fmt: skip
        assert places[name], name
    (qmp,) = (data for name, data in places.items() if name.endswith("qmp.log"))
    assert b'"object-add"' in qmp
    assert b"libvirt-1-format-encryption-secret0" in places["kept/processes"]
    assert {name: holding(places, canary) for name, canary in canaries.items()} == {name: [] for name in canaries}
