"""What libvirt refuses of a domain's sections, in its words; and what is done with what it does not know."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain import complete, definition
from pytest_embedvm.domain.model import Completed
from pytest_embedvm.errors import ConfigUnsupported, EmbedError, XMLSchemaError
from tests.fakes.host import FakeHost

NAME = "<name>a</name>"
MEMORY = "<memory unit='MiB'>64</memory>"
OS = "<os><type arch='x86_64' machine='q35'>hvm</type></os>"

E = ErrorNumber
D = ErrorDomain


def domain(more: str = "", *, name: str = NAME, memory: str = MEMORY, os: str = OS, type: str = "qemu") -> str:  # noqa: A002
    return f"<domain type='{type}'>{name}{memory}{os}{more}</domain>"


def make(text: str) -> Completed:
    return complete.complete(definition.parse(text), FakeHost())


SECURE = "<feature enabled='yes' name='secure-boot'/>"
FLASH = "<loader readonly='yes' type='pflash' {}='yes'>/code.fd{}</loader>"


def efi(inner: str, features: str = "<acpi/>") -> str:
    os = f"<os firmware='efi'><type machine='q35'>hvm</type>{inner}</os>"
    return domain(f"<features>{features}</features>", os=os)


REFUSED = {
    "no name": (domain(name=""), E.NO_NAME, D.DOMAIN, "missing name information"),
    "empty name": (domain(name="<name/>"), E.NO_NAME, D.DOMAIN, "missing name information"),
    "slash in the name": (domain(name="<name>../a</name>"), E.XML_ERROR, D.DOMAIN,
                          "XML error: name ../a cannot contain '/'"),
    "bogus type": (domain(type="bogus"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                   "unsupported configuration: invalid domain type bogus"),
    "xen": (domain(type="xen"), E.CONFIG_UNSUPPORTED, D.QEMU,
            "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support virt type 'xen'"),
    "kvm": (domain(type="kvm"), E.CONFIG_UNSUPPORTED, D.QEMU,
            "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support virt type 'kvm': "
            "the fake host has none"),
    "bad uuid": (domain("<uuid>zz</uuid>"), E.INTERNAL_ERROR, D.DOMAIN, "internal error: malformed uuid element"),
    "bad genid": (domain("<genid>zz</genid>"), E.INTERNAL_ERROR, D.DOMAIN, "internal error: malformed genid element"),
    "title": (domain("<title>a\nb</title>"), E.XML_ERROR, D.DOMAIN, "XML error: Domain title can't contain newlines"),
    "memory abc": (domain(memory="<memory>abc</memory>"), E.XML_ERROR, D.XML,
                   "XML error: Invalid value 'abc' for element or attribute './memory[1]'"),
    "memory unit": (domain(memory="<memory unit='QiB'>1</memory>"), E.INVALID_ARG, D.NONE,
                    "invalid argument: unknown suffix 'QiB'"),
    "no memory": (domain(memory=""), E.XML_ERROR, D.DOMAIN,
                  "XML error: Memory size must be specified via <memory> or in the <numa> configuration"),
    "no os": (domain(os=""), E.XML_ERROR, D.DOMAIN, "XML error: an os <type> must be specified"),
    "empty os type": (domain(os="<os><type/></os>"), E.XML_ERROR, D.DOMAIN,
                      "XML error: an os <type> must be specified"),
    "os type bogus": (domain(os="<os><type>bogus</type></os>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                      "unsupported configuration: unknown OS type 'bogus'"),
    "os type xen": (domain(os="<os><type>xen</type></os>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                    "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support os type 'xen'"),
    "unknown machine": (domain(os="<os><type machine='bogus'>hvm</type></os>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                        "unsupported configuration: Emulator '/usr/bin/qemu-system-x86_64' does not support "
                        "machine type 'bogus'"),
    "unknown arch": (domain(os="<os><type arch='vax'>hvm</type></os>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                     "unsupported configuration: Unknown architecture vax"),
    "another arch": (domain(os="<os><type arch='aarch64'>hvm</type></os>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                     "unsupported configuration: No emulator found for arch 'aarch64'"),
    "boot dev": (domain(os="<os><type>hvm</type><boot dev='tape'/></os>"), E.XML_ERROR, D.XML,
                 "XML error: Invalid value for attribute 'dev' in element 'boot': 'tape'."),
    "no vcpu": (domain("<vcpu>0</vcpu>"), E.INTERNAL_ERROR, D.DOMAIN,
                "internal error: CPU IDs in <numa> exceed the <vcpu> count"),
    "vcpu x": (domain("<vcpu>x</vcpu>"), E.XML_ERROR, D.DOMAIN,
               "XML error: maximum vcpus count must be an integer"),
    "vcpu current": (domain("<vcpu current='2'>1</vcpu>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                     "unsupported configuration: maximum vCPU count must not be less than current vCPU count"),
    "too many vcpus": (domain("<vcpu>4096</vcpu>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                       "unsupported configuration: Maximum CPUs greater than specified machine type limit 288"),
    "topology": (domain("<cpu><topology sockets='1' cores='3' threads='1'/></cpu>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                 "unsupported configuration: CPU topology doesn't match maximum vcpu count"),
    "cpu model": (domain("<cpu><model>nosuchcpu</model></cpu>"), E.INTERNAL_ERROR, D.CPU,
                  "internal error: Unknown CPU model nosuchcpu"),
    "host-passthrough": (domain("<cpu mode='host-passthrough'/>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                         "unsupported configuration: CPU mode 'host-passthrough' for x86_64 qemu domain on x86_64 "
                         "host is not supported by hypervisor"),
    "feature": (domain("<features><nosuch/></features>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                "unsupported configuration: unexpected feature 'nosuch'"),
    "clock": (domain("<clock offset='bogus'/>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
              "unsupported configuration: unknown clock offset 'bogus'"),
    "timer": (domain("<clock><timer name='tsc' present='no'/></clock>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
              "unsupported configuration: unsupported timer type (name) 'tsc' with present='False'"),
    "on_poweroff": (domain("<on_poweroff>bogus</on_poweroff>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                    "unsupported configuration: unknown on_poweroff action: bogus"),
    "rename-restart": (domain("<on_reboot>rename-restart</on_reboot>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                       "unsupported configuration: qemu driver doesn't support the 'rename-restart' action for "
                       "'on_reboot'/'on_poweroff'/'on_crash'"),
    "contradiction": (domain("<on_poweroff>restart</on_poweroff><on_reboot>destroy</on_reboot>"),
                      E.CONFIG_UNSUPPORTED, D.QEMU,
                      "unsupported configuration: qemu driver doesn't support 'onReboot' set to 'destroy and "
                      "'onPoweroff' set to 'reboot'"),
    "seclabel": (domain("<seclabel type='dynamic' model='selinux'/>"), E.CONFIG_UNSUPPORTED, D.SECURITY,
                 "unsupported configuration: Security driver model 'selinux' is not available"),
    "known and not given": (domain("<cputune><shares>7</shares></cputune>"), E.CONFIG_UNSUPPORTED, D.DOMAIN,
                            "unsupported configuration: element <domain/cputune> is not supported by this driver"),
    "known attribute": (domain("<clock offset='utc'><timer name='rtc' frequency='7'/></clock>"),
                        E.CONFIG_UNSUPPORTED, D.DOMAIN,
                        "unsupported configuration: attribute frequency='7' of element <domain/clock/timer> "
                        "is not supported by this driver"),
    "firmware without SMM": (efi(f"<firmware>{SECURE}</firmware>", "<acpi/><smm state='off'/>"),
                             E.OPERATION_INVALID, D.QEMU,
                             "Requested operation is not valid: domain has SMM turned off but chosen firmware requires "
                             "it"),
    "UEFI without ACPI": (efi("", "<pae/>"), E.CONFIG_UNSUPPORTED, D.QEMU,
                          "unsupported configuration: UEFI requires ACPI on this architecture"),
    "keys without Secure Boot": (efi("<firmware><feature enabled='no' name='secure-boot'/>"
                                     "<feature enabled='yes' name='enrolled-keys'/></firmware>"),
                                 E.XML_DETAIL, D.DOMAIN,
                                 "firmware feature 'enrolled-keys' cannot be enabled when firmware feature "
                                 "'secure-boot' is disabled"),
    "firmware and secure": (efi("<loader secure='no'/>"), E.XML_DETAIL, D.DOMAIN,
                            "loader attribute 'secure' cannot be specified when firmware autoselection is enabled"),
    "firmware and type": (efi("<loader type='rom'/>"), E.XML_DETAIL, D.DOMAIN,
                          "loader attribute 'type' cannot be specified when firmware autoselection is enabled"),
    "features of no firmware": (domain(os=f"<os><type>hvm</type><firmware>{SECURE}</firmware></os>"),
                                E.XML_DETAIL, D.DOMAIN,
                                "cannot use feature-based firmware autoselection when firmware autoselection is "
                                "disabled"),
    "variables of no firmware": (domain(os="<os><type>hvm</type><nvram>/v</nvram></os>"), E.XML_DETAIL, D.DOMAIN,
                                 "no loader path specified and firmware auto selection disabled"),
    "stateless with variables": (domain(os=f"<os><type>hvm</type>{FLASH.format('stateless', '')}"
                                        "<nvram>/v</nvram></os>"),
                                 E.XML_DETAIL, D.DOMAIN, "NVRAM is not permitted when loader is stateless"),
    "secure without SMM": (domain("<features><acpi/></features>",
                                  os=f"<os><type machine='q35'>hvm</type>{FLASH.format('secure', '')}</os>"),
                           E.CONFIG_UNSUPPORTED, D.QEMU,
                           "unsupported configuration: Secure boot requires SMM feature enabled"),
    "secure on an old board": (domain("<features><acpi/><smm state='on'/></features>",
                                      os=f"<os><type machine='pc'>hvm</type>{FLASH.format('secure', '')}</os>"),
                               E.CONFIG_UNSUPPORTED, D.QEMU,
                               "unsupported configuration: Secure boot is supported with q35 machine types only"),
    "loader": (domain(os="<os><type>hvm</type><loader>relative</loader></os>"), E.XML_ERROR, D.DOMAIN,
               "XML error: loader path 'relative' must be absolute"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_libvirts_words(case: str) -> None:
    text, code, origin, message = REFUSED[case]
    with pytest.raises(EmbedError) as caught:
        make(text)
    assert (caught.value.message, caught.value.code, caught.value.origin) == (message, code, origin)


def test_what_libvirt_does_not_know_is_ignored_and_told() -> None:
    told: list[tuple[str, list[str]]] = []
    text = domain("<nosuch>1</nosuch><vcpu zz='2'>1</vcpu>")
    definition.parse(text, on_unknown=lambda found, unknown: told.append((found.name, list(unknown))))
    (name, unknown), parsed = told[0], definition.parse(text)
    assert (len(told), name) == (1, parsed.name)
    assert unknown == ["element <domain/nosuch> with value '1'", "attribute zz='2' of element <domain/vcpu>"]


def test_validation_makes_it_an_error() -> None:
    with pytest.raises(XMLSchemaError) as caught:
        definition.parse(domain("<nosuch/>"), validate=True)
    assert caught.value.code is E.XML_INVALID_SCHEMA
    assert caught.value.message.endswith("unexpected element <domain/nosuch>")


def test_metadata_is_the_users_own() -> None:
    kept = "<metadata><a:b xmlns:a='x'><anything/></a:b></metadata>"
    assert "<anything/>" in definition.format(definition.parse(domain(kept), validate=True))


@pytest.mark.parametrize("name", ["12", ".", "a b\u00e9", "a\nb", "-x", "a,b", "$(x)"])
def test_odd_names_are_taken_as_libvirt_takes_them(name: str) -> None:
    assert make(domain(name=f"<name>{name}</name>")).name == name


def test_current_memory_is_never_more_than_the_maximum() -> None:
    assert make(domain("<currentMemory unit='GiB'>1</currentMemory>")).current_memory == 64 * 1024


def test_an_unknown_kind_of_device_is_refused_by_name() -> None:
    with pytest.raises(ConfigUnsupported, match="element <domain/devices/hostdev>"):
        make(domain("<devices><hostdev mode='subsystem' type='usb'/></devices>"))
