"""What the configuration promises, on real QEMU: asked of QEMU itself, of /proc, or by a VNC client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from pytest_embedvm.cli.machines import look
from pytest_embedvm.constants import DomainCreateFlags, DomainXMLFlags
from pytest_embedvm.driver.client import Options
from pytest_embedvm.driver.descriptors import connect_unix
from pytest_embedvm.driver.driver import Driver
from pytest_embedvm.driver.machine import Machine
from pytest_embedvm.driver.uri import make_uri
from pytest_embedvm.errors import ConfigSyntax, ConfigUnsupported, InternalError, NoSecret
from tests.driver import tiny

VNC = "<graphics type='vnc'/>"
#: Kinds of security by their numbers in the protocol (RFB).
NONE, PASSWORD, TLS, SASL, X509_NONE = 1, 2, 19, 20, 260

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@asynccontextmanager
async def opened(root: Path, config: Any = None, file: Path | None = None) -> AsyncIterator[Driver]:
    driver = await Driver.open(make_uri(root, config=file), Options(config=config))
    try:
        yield driver
    finally:
        await driver.close()


@asynccontextmanager
async def started(
    directory: Path, config: Mapping[str, object], devices: str = "", extra: str = ""
) -> AsyncIterator[Machine]:
    async with opened(directory / "root", config) as driver:
        yield await driver.create_xml(tiny.xml(directory, devices=devices, extra=extra))


def argv(machine: Machine) -> tuple[str, ...]:
    assert machine._running
    return machine._running.argv


def process(machine: Machine) -> Path:
    assert machine._running
    return Path(f"/proc/{machine._running.process.pid}")


def limits(machine: Machine) -> dict[str, str]:
    """Soft and hard, as /proc says them."""
    lines = (process(machine) / "limits").read_text().splitlines()
    return {line[:26].strip(): " ".join(line[26:].split()[:2]) for line in lines}


def graphics(machine: Machine, flags: int = 0) -> str:
    found = re.search(r"<graphics.*?(?:/>|</graphics>)", machine.xml(flags), re.DOTALL)
    assert found
    return found.group()


def port(machine: Machine) -> int:
    return int(re.findall(r"port='(\d+)'", graphics(machine))[0])


def offers(sock: socket.socket) -> list[int]:
    """The kinds of security that a VNC server offers (RFB 3.8)."""
    with sock:
        sock.settimeout(30)
        assert sock.recv(12, socket.MSG_WAITALL) == b"RFB 003.008\n"
        sock.sendall(b"RFB 003.008\n")
        return list(sock.recv(sock.recv(1)[0], socket.MSG_WAITALL))


async def offered(machine: Machine, host: str = "127.0.0.1") -> list[int]:
    address = host, port(machine)
    return await asyncio.to_thread(lambda: offers(socket.create_connection(address, 30)))


# Where it comes from


async def test_the_roots_file_the_uris_and_the_openers(tmp_path: Path) -> None:
    root, file = tmp_path / "root", tmp_path / "given.conf"
    (root / "etc").mkdir(parents=True)
    (root / "etc/qemu.conf").write_text("max_files = 1000")
    file.write_text("max_files = 2000")
    async with opened(root) as driver:
        assert driver.config.max_files == 1000
    async with opened(root, file=file) as driver:
        assert driver.config.max_files == 2000
    async with opened(root, {"max_files": 3000}, file=file) as driver:
        assert driver.config.max_files == 3000
    assert [p for p in root.rglob("*") if p.is_file() and "max_files" in p.read_text()] == [root / "etc/qemu.conf"]
    assert (root / "etc/qemu.conf").read_text() == "max_files = 1000"


async def test_the_first_opener_decides(tmp_path: Path) -> None:
    async with opened(tmp_path / "root", {"max_files": 1000}) as driver:
        async with opened(tmp_path / "root") as same:
            assert same is driver
        async with opened(tmp_path / "root", {"max_files": 1000}) as same:
            assert same is driver
        with pytest.raises(ConfigUnsupported, match=r"open in this process with another configuration: max_files$"):
            await Driver.open(make_uri(tmp_path / "root"), Options(config={"max_files": 1}))
    async with opened(tmp_path / "root", {"max_files": 1}) as other:
        assert other is not driver


async def test_a_root_that_is_not_opened_is_free(tmp_path: Path) -> None:
    with pytest.raises(ConfigSyntax, match=r"config\['x'\]: unknown key"):
        await Driver.open(make_uri(tmp_path / "root"), Options(config={"x": 1}))
    async with opened(tmp_path / "root"):
        pass


async def test_what_has_no_effect_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with opened(tmp_path / "root", {"spice_tls": True}):
            pass
    (record,) = caplog.records
    assert "config['spice_tls']: 'spice_tls' has no effect: SPICE graphics" in record.getMessage()


# Limits, sandbox, names


async def test_by_default_there_is_a_sandbox_and_no_core(tmp_path: Path) -> None:
    async with started(tmp_path, {}) as machine:
        if not machine._driver.host.capabilities(argv(machine)[0]).has_option("sandbox", "elevateprivileges"):
            pytest.skip("this QEMU was built without a sandbox")
        assert "Seccomp:\t2" in (process(machine) / "status").read_text()
        assert limits(machine)["Max core file size"] == "0 0"
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert limits(machine)["Max open files"] == f"{soft} {hard}"
        assert "-sandbox" in argv(machine)
        assert "dump-guest-core=off" in " ".join(argv(machine))


async def test_without_the_sandbox(tmp_path: Path) -> None:
    async with started(tmp_path, {"seccomp_sandbox": 0}) as machine:
        assert "Seccomp:\t0" in (process(machine) / "status").read_text()


def allowed(which: int, number: int) -> int:
    """NUMBER, or as much as this user may have."""
    hard = resource.getrlimit(which)[1]
    return number if os.geteuid() == 0 or hard == resource.RLIM_INFINITY else min(number, hard)


async def test_limits(tmp_path: Path) -> None:
    processes = allowed(resource.RLIMIT_NPROC, 30000)
    core = allowed(resource.RLIMIT_CORE, 4096)
    async with started(tmp_path, {"max_files": 512, "max_processes": processes, "max_core": core}) as machine:
        found = limits(machine)
        names = ("Max open files", "Max processes", "Max core file size")
        assert [found[name] for name in names] == ["512 512", f"{processes} {processes}", f"{core} {core}"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to have no limit")
async def test_a_core_of_any_size_with_the_guests_memory_in_it(tmp_path: Path) -> None:
    async with started(tmp_path, {"max_core": "unlimited", "dump_guest_core": True}) as machine:
        assert limits(machine)["Max core file size"] == "unlimited unlimited"
        assert "dump-guest-core=on" in " ".join(argv(machine))


async def test_the_name_of_the_process_and_its_log(tmp_path: Path) -> None:
    async with started(tmp_path, {"set_process_name": True, "log_timestamp": False}) as machine:
        # The kernel keeps fifteen bytes of it.
        assert (process(machine) / "comm").read_text() == "qemu:a\n"
        assert "-msg" not in argv(machine)


async def test_what_is_deprecated_may_be_refused(tmp_path: Path) -> None:
    async with started(tmp_path, {"deprecation_behavior": "reject"}) as machine:
        assert "deprecated-output=hide,deprecated-input=reject" in argv(machine)
        command = {"execute": "query-migrate-capabilities"}
        assert "return" in json.loads(await machine.monitor_command(json.dumps(command)))


# Memory and firmware


async def test_memory_in_a_file(tmp_path: Path) -> None:
    places = {"root": tmp_path / "root/lib/qemu/ram", "given": tmp_path / "ram"}
    for name, place in places.items():
        config = {} if name == "root" else {"memory_backing_dir": str(place)}
        backing = "<memoryBacking><source type='file'/><access mode='shared'/></memoryBacking>"
        async with started(tmp_path, config, extra=backing) as machine:
            (file,) = (p for p in place.rglob("*") if p.is_file())
            assert file.stat().st_size == 32 << 20
            assert file.stat().st_mode & 0o777 == 0o600
            assert f"{file}\n" in (process(machine) / "maps").read_text()
        assert not file.exists()


async def test_variables_are_made_from_the_configured_template(tmp_path: Path) -> None:
    code, template = tmp_path / "code.fd", tmp_path / "vars.fd"
    code.write_bytes(tiny.firmware())
    template.write_bytes(b"template" + bytes(8184))
    loader = f"<loader type='pflash' readonly='yes'>{code}"
    text = tiny.xml(tmp_path).replace(f"<loader type='rom'>{tmp_path / 'tiny.fd'}", loader)
    async with opened(tmp_path / "root", {"nvram": ["/other:/none", f"{code}:{template}"]}) as driver:
        machine = await driver.create_xml(text)
        (store,) = (tmp_path / "root/lib/qemu/nvram").rglob("*.fd")
        assert store.read_bytes() == template.read_bytes()
        assert f"template='{template}'" in machine.xml()


# VNC


async def test_vnc_listens_where_it_is_told(tmp_path: Path) -> None:
    config = {"vnc_listen": "127.0.0.2", "remote_display_port_min": 6100, "remote_display_port_max": 6199}
    async with started(tmp_path, config, VNC) as machine:
        assert 6100 <= port(machine) <= 6199
        assert "listen='127.0.0.2'" in graphics(machine)
        assert await offered(machine, "127.0.0.2") == [NONE]
        assert "127.0.0.2" not in graphics(machine, DomainXMLFlags.INACTIVE)


async def test_a_range_that_is_full(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        config = {"remote_display_port_min": number, "remote_display_port_max": number}
        with pytest.raises(InternalError, match=r"Address already in use|Failed to find an available port"):
            async with started(tmp_path, config, VNC):
                pass


async def test_vnc_on_a_socket_of_its_own(tmp_path: Path) -> None:
    async with opened(tmp_path / "root", {"vnc_auto_unix_socket": True, "vnc_listen": "127.0.0.2"}) as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path, devices=VNC))
        defined = machine.xml()
        await machine.create()
        (path,) = re.findall(r"<listen type='socket' socket='([^']+)'", machine.xml())
        assert await asyncio.to_thread(lambda: offers(connect_unix(Path(path)))) == [NONE]
        assert "type='socket'" not in graphics(machine, DomainXMLFlags.INACTIVE)
        await machine.destroy()
        assert machine.xml() == defined
        assert "autoport='yes'" in defined


async def test_an_address_in_the_xml_counts_first(tmp_path: Path) -> None:
    config = {"vnc_auto_unix_socket": True, "vnc_listen": "127.0.0.2"}
    async with started(tmp_path, config, "<graphics type='vnc' listen='127.0.0.3'/>") as machine:
        assert await offered(machine, "127.0.0.3") == [NONE]


def encrypted(challenge: bytes, password: str) -> bytes:
    """The answer to a VNC server's challenge: DES with the password as the key, the bits of each byte reversed."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode().ljust(8, b"\0"))
    words = ["openssl", "enc", "-des-ecb", "-K", key.hex(), "-nopad", "-provider", "legacy", "-provider", "default"]
    return subprocess.run(words, input=challenge, stdout=subprocess.PIPE, check=True).stdout


async def lets_in(machine: Machine, password: str) -> bool:
    def knock() -> bool:
        with socket.create_connection(("127.0.0.1", port(machine)), 30) as sock:
            sock.recv(12, socket.MSG_WAITALL)
            sock.sendall(b"RFB 003.008\n")
            assert sock.recv(2, socket.MSG_WAITALL) == bytes([1, PASSWORD])
            sock.sendall(bytes([PASSWORD]))
            sock.sendall(encrypted(sock.recv(16, socket.MSG_WAITALL), password))
            return sock.recv(4, socket.MSG_WAITALL) == bytes(4)

    return await asyncio.to_thread(knock)


@needs_openssl
async def test_a_vnc_password_that_nobody_sees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    secret = "sEcReT42"
    with caplog.at_level(logging.DEBUG):
        async with started(tmp_path, {"vnc_password": secret}, VNC) as machine:
            assert await lets_in(machine, secret)
            assert not await lets_in(machine, "sEcReT43")
            evidence = machine.evidence()
            assert "password-secret" in "".join(argv(machine))
            seen = [*argv(machine), *evidence.qmp_trace, evidence.qemu_log_tail, machine.xml(), caplog.text]
            seen += [(process(machine) / name).read_text(errors="replace") for name in ("cmdline", "environ")]
            assert secret not in "".join(seen)
    files = [p for p in (tmp_path / "root").rglob("*") if p.is_file()]
    assert files
    assert not [p for p in files if secret.encode() in p.read_bytes()]


@needs_openssl
async def test_a_password_in_the_xml_counts_first_and_is_kept_concealed(tmp_path: Path) -> None:
    secret, display = "sEcReT42", "<graphics type='vnc' passwd='sEcReT42' passwdValidTo='2090-01-02T03:04:05'/>"
    root = tmp_path / "root"
    async with opened(root, {"vnc_password": "another"}) as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path, devices=display))
        await machine.create(DomainCreateFlags.START_PAUSED)
        assert await lets_in(machine, secret)
        assert not await lets_in(machine, "another")
        for flags in (0, DomainXMLFlags.INACTIVE, DomainXMLFlags.MIGRATABLE):
            assert "passwd=" not in machine.xml(flags)
            assert f"passwd='{secret}'" in machine.xml(flags | DomainXMLFlags.SECURE)
        files = [p for p in root.rglob("*") if p.is_file()]
        assert {"etc", "run"} < {p.relative_to(root).parts[0] for p in files}
        assert not [p for p in files if secret.encode() in p.read_bytes()]
        assert "passwd=" not in look(root).machines[0].xml
    async with opened(root) as driver:
        assert f"passwd='{secret}'" in driver.by_name(machine.name).xml(DomainXMLFlags.SECURE)


@needs_openssl
async def test_a_password_ends_when_it_is_said_to(tmp_path: Path) -> None:
    display = "<graphics type='vnc' passwd='x' passwdValidTo='2020-01-02T03:04:05'/>"
    async with started(tmp_path, {}, display) as machine:
        assert not await lets_in(machine, "x")


@needs_openssl
async def test_an_empty_vnc_password_lets_nobody_in(tmp_path: Path) -> None:
    async with started(tmp_path, {"vnc_password": ""}, VNC) as machine:
        assert not await lets_in(machine, "")


def certify(directory: Path) -> Path:
    """An authority and a server's certificate, under the names that QEMU looks for."""
    directory.mkdir(parents=True)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=directory, check=True, stderr=subprocess.PIPE)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca-key.pem", "-out", "ca-cert.pem", "-subj", "/CN=authority")
    for who in ("server", "client"):
        openssl("req", *new, "-keyout", f"{who}-key.pem", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        signed = ("-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{who}.csr", *signed, "-out", f"{who}-cert.pem")
    return directory


def encrypt_key(path: Path, password: bytes) -> None:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(password)
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))


def encrypted_offer(number: int, certificates: Path, *, own: bool) -> tuple[list[int], str | None, bytes]:
    """The kinds of security that a VNC server offers with VeNCrypt, the version of TLS, and the verdict.

    :param own: whether the client shows a certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(certificates / "ca-cert.pem")
    if own:
        context.load_cert_chain(certificates / "client-cert.pem", certificates / "client-key.pem")
    with socket.create_connection(("127.0.0.1", number), 30) as sock:
        sock.recv(12, socket.MSG_WAITALL)
        sock.sendall(b"RFB 003.008\n")
        assert list(sock.recv(2, socket.MSG_WAITALL)) == [1, TLS]
        sock.sendall(bytes([TLS]))
        assert sock.recv(2, socket.MSG_WAITALL) == b"\0\2"
        sock.sendall(b"\0\2")
        assert sock.recv(1) == b"\0"
        kinds = sock.recv(1)[0]
        found = [int.from_bytes(sock.recv(4, socket.MSG_WAITALL), "big") for _ in range(kinds)]
        sock.sendall(found[0].to_bytes(4, "big"))
        assert sock.recv(1) == b"\1"
        with context.wrap_socket(sock) as tls:
            return found, tls.version(), tls.recv(4)


@needs_openssl
@pytest.mark.parametrize("place", ["root", "default_tls_x509_cert_dir", "vnc_tls_x509_cert_dir"])
async def test_vnc_over_tls(tmp_path: Path, place: str) -> None:
    certificates = certify(tmp_path / ("root/etc/pki/qemu" if place == "root" else "certificates"))
    config = {"vnc_tls": True} | ({} if place == "root" else {place: str(certificates)})
    async with started(tmp_path, config, VNC) as machine:
        offer, version, verdict = await asyncio.to_thread(encrypted_offer, port(machine), certificates, own=False)
        assert (offer, version, verdict) == ([X509_NONE], "TLSv1.3", bytes(4))


@needs_openssl
@pytest.mark.parametrize("key", ["default_tls_x509_secret_uuid", "vnc_tls_x509_secret_uuid"])
async def test_a_key_that_a_secret_opens(tmp_path: Path, key: str) -> None:
    certificates = certify(tmp_path / "certificates")
    encrypt_key(certificates / "server-key.pem", b"the key's own")
    uuid = "11111111-2222-3333-4444-555555555555"
    config = {"vnc_tls": True, "default_tls_x509_cert_dir": str(certificates), key: uuid}
    async with opened(tmp_path / "root", config) as driver:
        machine = await driver.define_xml(tiny.xml(tmp_path, devices=VNC))
        with pytest.raises(NoSecret, match=f"no secret with matching uuid '{uuid}'"):
            await machine.create()
        secret = driver.secrets.define(f"<secret><uuid>{uuid}</uuid><usage type='tls'><name>k</name></usage></secret>")
        driver.secrets.set_value(secret, b"wrong")
        with pytest.raises(InternalError, match="Decryption has failed"):
            await machine.create()
        driver.secrets.set_value(secret, b"the key's own")
        await machine.create()
        offer, _, verdict = await asyncio.to_thread(encrypted_offer, port(machine), certificates, own=False)
        assert (offer, verdict) == ([X509_NONE], bytes(4))


@needs_openssl
@pytest.mark.parametrize("key", ["default_tls_x509_verify", "vnc_tls_x509_verify"])
async def test_vnc_asks_for_the_clients_certificate(tmp_path: Path, key: str) -> None:
    certificates = certify(tmp_path / "certificates")
    config = {"vnc_tls": True, "default_tls_x509_cert_dir": str(certificates), key: True}
    async with started(tmp_path, config, VNC) as machine:
        *_, verdict = await asyncio.to_thread(encrypted_offer, port(machine), certificates, own=True)
        assert verdict == bytes(4)
        with contextlib.suppress(ssl.SSLError, ConnectionError):  # or it only hangs up
            *_, verdict = await asyncio.to_thread(encrypted_offer, port(machine), certificates, own=False)
            assert verdict == b""


@needs_openssl
@pytest.mark.parametrize("key", ["default_tls_priority", "vnc_tls_priority"])
async def test_the_priority_of_tls(tmp_path: Path, key: str) -> None:
    certificates = certify(tmp_path / "certificates")
    config = {"vnc_tls": True, "default_tls_x509_cert_dir": str(certificates), key: "NORMAL:-VERS-TLS1.3"}
    async with started(tmp_path, config, VNC) as machine:
        _, version, _ = await asyncio.to_thread(encrypted_offer, port(machine), certificates, own=False)
        assert version == "TLSv1.2"


async def test_certificates_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(InternalError, match=r"ca-cert\.pem"):
        async with started(tmp_path, {"vnc_tls": True}, VNC):
            pass


async def test_vnc_with_sasl(tmp_path: Path) -> None:
    try:
        async with started(tmp_path, {"vnc_sasl": True, "vnc_sasl_dir": str(tmp_path)}, VNC) as machine:
            assert await offered(machine) == [SASL]
            assert f"SASL_CONF_PATH={tmp_path}\0" in (process(machine) / "environ").read_text()
    except InternalError as error:
        if "cyrus-sasl" not in error.message:
            raise
        pytest.skip("this QEMU was built without SASL")
