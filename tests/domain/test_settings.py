"""What the configuration makes of a domain and of its command line."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from pytest_embedvm.domain import argv, complete, definition
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.domain.settings import Settings
from pytest_embedvm.qemu.capabilities import Capabilities
from pytest_embedvm.qemu.parts import Password, SecretPart
from tests.fakes.host import FakeHost, capabilities

VNC = "<graphics type='vnc'/>"


def described(settings: Settings, devices: str = "") -> tuple[Completed, FakeHost]:
    host = FakeHost(settings=settings)
    os = "<os><type machine='q35'>hvm</type></os>"
    text = f"<domain type='qemu'><name>a</name><memory>65536</memory>{os}<devices>{devices}</devices></domain>"
    return complete.complete(definition.parse(text), host), host


def words(devices: str = "", **settings: Any) -> list[str]:
    domain, host = described(Settings(**{"seccomp_sandbox": 0} | settings), devices)
    launch = argv.launch(domain, host)
    return launch.argv({descriptor.name: 9 for descriptor in launch.descriptors})


def after(option: str, words: list[str]) -> list[str]:
    return [word for before, word in itertools.pairwise(words) if before == option]


def test_the_sandbox_is_libvirts() -> None:
    for number in (-1, 1, 2):
        assert after("-sandbox", words(seccomp_sandbox=number)) == [
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
        ]
    assert "-sandbox" not in words()


@pytest.mark.parametrize(("asked", "said"), [(-1, []), (1, ["on"])])
def test_a_qemu_without_a_sandbox(asked: int, said: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    less: Capabilities = dataclasses.replace(capabilities(), options=frozenset())
    monkeypatch.setattr(FakeHost, "capabilities", lambda _self, _emulator: less)
    assert after("-sandbox", words(seccomp_sandbox=asked)) == said


@pytest.mark.parametrize(
    ("settings", "option", "said"),
    [
        ({"set_process_name": True}, "-name", ["guest=a,process=qemu:a,debug-threads=on"]),
        ({"log_timestamp": False}, "-msg", []),
        ({}, "-msg", ["timestamp=on"]),
        ({}, "-compat", []),
        ({"deprecation_behavior": "omit"}, "-compat", ["deprecated-output=hide"]),
        ({"deprecation_behavior": "crash"}, "-compat", ["deprecated-output=hide,deprecated-input=crash"]),
        ({}, "-vnc", ["127.0.0.1:0,to=59635"]),
        ({"vnc_listen": "::1"}, "-vnc", ["[::1]:0,to=59635"]),
        ({"remote_display_port_min": 6000, "remote_display_port_max": 6010}, "-vnc", ["127.0.0.1:100,to=110"]),
        ({"vnc_password": "", "vnc_sasl": True}, "-vnc", ["127.0.0.1:0,to=59635,password=on,sasl=on"]),
        ({"vnc_auto_unix_socket": True}, "-vnc", ["vnc=unix:/proc/self/fd/9/vnc"]),
        ({"vnc_tls": True}, "-vnc", ["127.0.0.1:0,to=59635,tls-creds=vnc-tls-creds0"]),
    ],
)
def test_options(settings: dict[str, Any], option: str, said: list[str]) -> None:
    assert [word.replace(",audiodev=audio1", "") for word in after(option, words(VNC, **settings))] == said


def test_certificates() -> None:
    plain, checked = (
        after("-object", words(VNC, vnc_tls=True, vnc_tls_x509_cert_dir="/pki", **more))[-1]
        for more in ({}, {"vnc_tls_x509_verify": True, "vnc_tls_priority": "NORMAL"})
    )
    begins = '{"qom-type":"tls-creds-x509","id":"vnc-tls-creds0","dir":"/pki","endpoint":"server"'
    assert plain == f'{begins},"verify-peer":false}}'
    assert checked == f'{begins},"verify-peer":true,"priority":"NORMAL"}}'


def test_a_password_is_a_secret_and_nothing_else() -> None:
    for settings, devices in (
        (Settings(vnc_password="hush"), VNC),
        (Settings(), VNC.replace("/>", " passwd='hush'/>")),
    ):
        domain, host = described(settings, devices)
        launch = argv.launch(domain, host)
        (secret,) = [part for part in launch.parts if isinstance(part, SecretPart)]
        assert secret.value == Password("hush")
        assert launch.commands == ()
        assert "password-secret=vnc-password-secret0" in " ".join(launch.argv({}))
        hidden = definition.spelled(domain, lambda _password: None)
        assert "hush" not in repr(launch) + repr(domain) + definition.format(hidden) + " ".join(launch.argv({}))


def test_an_own_password_goes_before_the_configured_one() -> None:
    domain, host = described(Settings(vnc_password="every"), VNC.replace("/>", " passwd=''/>"))
    launch = argv.launch(domain, host)
    assert not [part for part in launch.parts if isinstance(part, SecretPart)]
    assert "password=on" in " ".join(launch.argv({}))


def test_a_key_s_secret_is_found_by_its_uuid() -> None:
    said = after("-object", words(VNC, vnc_tls=True, vnc_tls_x509_cert_dir="/pki", vnc_tls_x509_secret_uuid="u"))
    assert said[-2].startswith('{"qom-type":"secret","id":"vnc-tls-creds0-secret0"')
    assert said[-1].endswith('"verify-peer":false,"passwordid":"vnc-tls-creds0-secret0"}')


@pytest.mark.parametrize("settings", [{"vnc_auto_unix_socket": True}, {"vnc_listen": "127.0.0.9"}])
@pytest.mark.parametrize("port", ["", " port='5999'", " port='-1' autoport='yes'"])
def test_what_is_configured_is_no_part_of_the_definition(settings: dict[str, Any], port: str) -> None:
    devices = f"<graphics type='vnc'{port}/>"
    unconfigured, _ = described(Settings(), devices)
    configured, host = described(Settings(**settings), devices)
    assert definition.format(configured) != definition.format(unconfigured)
    assert _without_uuid(definition.format(configured, inactive=True)) == _without_uuid(
        definition.format(unconfigured, inactive=True)
    )
    again = complete.complete(configured, host)  # as a start does with a definition
    assert definition.format(again) == definition.format(configured)
    assert definition.format(again, inactive=True) == definition.format(configured, inactive=True)


def _without_uuid(text: str) -> list[str]:
    return [line for line in text.splitlines() if "<uuid>" not in line]
