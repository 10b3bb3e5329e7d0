from __future__ import annotations

import platform

import pytest
from lxml import etree

from pytest_embedvm.driver import capabilities_xml
from pytest_embedvm.errors import ConfigUnsupported, InvalidArgument
from pytest_embedvm.qemu.accelerator import Accelerator
from pytest_embedvm.qemu.cache import HostCapabilities
from tests.driver.conftest import OpenDriver
from tests.fakes.host import EMULATOR, capabilities

TCG = HostCapabilities(capabilities(), Accelerator("tcg", "KVM here is slow", cpu_host_usable=False, figures={}))
KVM = HostCapabilities(capabilities(), Accelerator("kvm", "KVM is fast", cpu_host_usable=True, figures={}))


def test_capabilities() -> None:
    root = etree.fromstring(capabilities_xml.host(TCG))
    assert root.findtext("host/cpu/arch") == platform.machine()
    arch = root.find("guest/arch")
    assert arch is not None
    assert arch.get("name") == "x86_64"
    assert (arch.findtext("wordsize"), arch.findtext("emulator")) == ("64", EMULATOR)
    machines = {machine.text: machine for machine in arch.iter("machine")}
    assert machines["q35"].get("canonical") == "pc-q35-7.2"
    assert machines["pc-q35-7.2"].get("maxCpus") == "288"
    assert [domain.get("type") for domain in arch.iter("domain")] == ["qemu"]
    assert [d.get("type") for d in etree.fromstring(capabilities_xml.host(KVM)).iter("domain")] == ["qemu", "kvm"]


def test_domain_capabilities() -> None:
    root = etree.fromstring(capabilities_xml.domain(TCG, "x86_64", "q35", None))
    texts = [root.findtext(name) for name in ("path", "domain", "machine", "arch")]
    assert texts == [EMULATOR, "qemu", "pc-q35-7.2", "x86_64"]
    assert root.find("vcpu").attrib == {"max": "288"}  # type: ignore[union-attr]
    values = [value.text for value in root.iterfind("devices/rng/enum/value")]
    assert values == ["random", "egd", "builtin"]
    modes = {mode.get("name"): mode.get("supported") for mode in root.iterfind("cpu/mode")}
    assert modes == {"host-passthrough": "no", "maximum": "yes", "host-model": "no", "custom": "yes"}
    assert "qemu64" in [model.text for model in root.iterfind("cpu/mode/model")]


def test_domain_capabilities_with_kvm() -> None:
    root = etree.fromstring(capabilities_xml.domain(KVM, "x86_64", None, None))
    assert root.findtext("domain") == "kvm"
    assert root.find("cpu/mode").get("supported") == "yes"  # type: ignore[union-attr]


def test_refusals() -> None:
    with pytest.raises(InvalidArgument, match=r"^invalid argument: unknown architecture: vax$"):
        capabilities_xml.require_arch("vax")
    with pytest.raises(InvalidArgument) as caught:
        capabilities_xml.domain(TCG, "x86_64", "bogus", "qemu")
    assert caught.value.message == (f"invalid argument: the machine 'bogus' is not supported by emulator '{EMULATOR}'")
    with pytest.raises(InvalidArgument, match="doesn't match given architecture 'aarch64'"):
        capabilities_xml.domain(TCG, "aarch64", None, None)
    with pytest.raises(ConfigUnsupported, match="does not support virt type 'kvm': KVM here is slow"):
        capabilities_xml.domain(TCG, "x86_64", None, "kvm")


async def test_of_this_host(embed: OpenDriver) -> None:
    async with embed() as driver:
        assert "<machine maxCpus=" in await driver.capabilities_xml()
        assert "<domainCapabilities>" in await driver.domain_capabilities_xml(None, None, None, "qemu")
