"""Channels: ports that guest and host know by name."""

from __future__ import annotations

import pytest

from pytest_embedvm.constants import ErrorDomain, ErrorNumber
from pytest_embedvm.domain.argv import launch
from pytest_embedvm.domain.consoles import learn_state
from pytest_embedvm.errors import EmbedError
from pytest_embedvm.qemu.parts import Descriptor, Listen
from tests.domain.describing import completed, options, written
from tests.fakes.host import FakeHost

AGENT = "org.qemu.guest_agent.0"
ADDRESS = "<address type='virtio-serial' controller='0' bus='0' port='1'/>"


def channel(target: str, inside: str = "", kind: str = "unix") -> str:
    return f"<channel type='{kind}'>{inside}{target}</channel>"


@pytest.mark.parametrize(
    "source",
    [
        "",
        "<source/>",
        "<source mode='connect'/>",
        f"<source mode='bind' path='/var/lib/libvirt/qemu/channel/target/domain-1-other/{AGENT}'/>",
        f"<source mode='bind' path='/run/libvirt/qemu/channel/1-other/{AGENT}'/>",
        f"<source mode='bind' path='/R/channel/d/{AGENT}'/>",
    ],
)
def test_the_driver_chooses_the_socket(source: str) -> None:
    domain = completed(channel(f"<target type='virtio' name='{AGENT}'/>", source))
    path = f"/R/channel/d/{AGENT}"
    assert launch(domain, FakeHost()).descriptors == [Descriptor("charchannel0", Listen(path))]
    assert written(domain, "channel", inactive=False) == [
        f"<channel type='unix'><source mode='bind' path='{path}'/><target type='virtio' name='{AGENT}'/>"
        f"<alias name='channel0'/>{ADDRESS}</channel>"
    ]
    assert written(domain, "channel") == [
        f"<channel type='unix'><target type='virtio' name='{AGENT}'/>{ADDRESS}</channel>"
    ]


def test_a_port_without_a_name_has_a_socket_named_after_its_place() -> None:
    domain = completed(channel("<target type='virtio'/><address type='virtio-serial' controller='1' port='3'/>"))
    (descriptor,) = launch(domain, FakeHost()).descriptors
    assert descriptor.opens == Listen("/R/channel/d/vioser-01-00-03.sock")


def test_a_socket_of_the_user_s_own_stays() -> None:
    domain = completed(channel("<target type='virtio' name='a'/>", "<source mode='bind' path='/s'/>"))
    assert written(domain, "channel") == [
        f"<channel type='unix'><source mode='bind' path='/s'/><target type='virtio' name='a'/>{ADDRESS}</channel>"
    ]


def test_devices() -> None:
    names = "".join(channel(f"<target type='virtio' name='{name}'/>", kind="null") for name in "ab")
    assert [d for d in options(completed(names), "-device") if "virtserialport" in d] == [
        f'{{"driver":"virtserialport","bus":"virtio-serial0.0","nr":{index + 1},"chardev":"charchannel{index}",'
        f'"id":"channel{index}","name":"{name}"}}'
        for index, name in enumerate("ab")
    ]


def test_a_running_domain_shows_whether_the_guest_has_it_open() -> None:
    domain = completed(channel("<target type='virtio' name='a' state='connected'/>", kind="null"))
    assert "state=" not in written(domain, "channel", inactive=False)[0]
    assert learn_state(domain, "channel0", connected=True)
    assert not learn_state(domain, "channel0", connected=True)
    assert "name='a' state='connected'/>" in written(domain, "channel", inactive=False)[0]
    assert learn_state(domain, "channel0", connected=False)
    assert not learn_state(domain, "channel7", connected=True)
    assert "state=" not in written(domain, "channel")[0]


CONFIG, XML = ErrorNumber.CONFIG_UNSUPPORTED, ErrorNumber.XML_ERROR


@pytest.mark.parametrize(
    ("xml", "code", "origin", "sentence"),
    [
        (channel(""), XML, ErrorDomain.DOMAIN, "target type must be specified for channel device"),
        (
            channel("<target/>"),
            CONFIG, ErrorDomain.DOMAIN, "unknown target type '(null)' specified for character device",
        ),
        (
            channel("<target type='zz'/>"),
            CONFIG, ErrorDomain.DOMAIN, "unknown target type 'zz' specified for character device",
        ),
        (
            channel("<target type='virtio'/>", kind="spicevmc"),
            CONFIG, ErrorDomain.QEMU, "chardev 'spicevmc' not supported without spice graphics",
        ),
        (
            channel("<target type='guestfwd' address='10.0.2.1' port='4600'/>"),
            CONFIG, ErrorDomain.QEMU, "channel target type 'guestfwd' is not supported",
        ),
        (
            channel("<target type='xen' name='a'/>"),
            CONFIG, ErrorDomain.QEMU, "channel target type 'xen' is not supported",
        ),
        (
            channel("<target type='virtio' port='4600'/>"),
            CONFIG, ErrorDomain.DOMAIN,
            "port='4600' of a channel's element <target> is not supported for target type 'virtio'",
        ),
    ],
)  # fmt: skip
def test_refuses_by_name(xml: str, code: ErrorNumber, origin: ErrorDomain, sentence: str) -> None:
    with pytest.raises(EmbedError) as caught:
        completed(xml)
    assert (caught.value.code, caught.value.origin, caught.value.detail) == (code, origin, sentence)
