"""`<volume>`: there and back, and what libvirt says of what cannot be."""

from __future__ import annotations

import pytest

from pytest_embedvm.errors import ConfigUnsupported, EmbedError, InvalidArgument, OperationInvalid, XMLError
from pytest_embedvm.storage import volume
from pytest_embedvm.storage.encryption import Encryption, Secret

FULL = """<volume type='file'>
  <name>v</name>
  <key>/r/p/v</key>
  <capacity unit='bytes'>8388608</capacity>
  <allocation unit='bytes'>200704</allocation>
  <physical unit='bytes'>196616</physical>
  <target>
    <path>/r/p/v</path>
    <format type='qcow2'/>
    <permissions>
      <mode>0600</mode>
      <owner>0</owner>
      <group>0</group>
    </permissions>
    <timestamps>
      <atime>1795432935.201367286</atime>
      <mtime>1795432935.197614423</mtime>
      <ctime>1795432935.201319769</ctime>
      <btime>0</btime>
    </timestamps>
    <encryption format='luks'>
      <secret type='passphrase' uuid='11111111-1111-1111-1111-111111111111'/>
    </encryption>
    <compat>1.1</compat>
    <clusterSize unit='B'>65536</clusterSize>
    <features>
      <lazy_refcounts/>
    </features>
  </target>
  <backingStore>
    <path>/r/p/base</path>
    <format type='raw'/>
  </backingStore>
</volume>
"""


def named(more: str = "<capacity>1</capacity>", name: str = "<name>v</name>", target: str = "") -> str:
    return f"<volume>{name}{more}<target>{target}</target></volume>"


def test_it_goes_there_and_back() -> None:
    assert volume.format(volume.parse(FULL)) == FULL


def test_sizes_have_units() -> None:
    described = volume.parse(named("<capacity unit='MiB'>2</capacity><allocation unit='KB'>1</allocation>"))
    assert (described.capacity, described.allocation) == (2 << 20, 1000)


def test_features_are_those_of_the_newer_format() -> None:
    target = "<format type='qcow2'/><features><extended_l2/></features>"
    assert volume.parse(named(target=target)).target.compat == "1.1"


@pytest.mark.parametrize(
    ("xml", "error", "message"),
    [
        ("<pool/>", XMLError, "XML error: expecting root element of 'volume', not 'pool'"),
        (named(name=""), XMLError, "XML error: missing volume name element"),
        (named(""), XMLError, "XML error: missing capacity element"),
        (named("<capacity>x</capacity>"), XMLError, "XML error: malformed capacity element"),
        (named("<capacity>-1</capacity>"), XMLError, "XML error: malformed capacity element"),
        (named("<capacity unit='Q'>1</capacity>"), InvalidArgument, "invalid argument: unknown suffix 'Q'"),
        (
            named(target="<format type='bogus'/>"),
            ConfigUnsupported,
            "unsupported configuration: unknown volume format type bogus",
        ),
        (
            named(target="<format type='luks'/>"),
            ConfigUnsupported,
            "unsupported configuration: unknown volume format type luks",
        ),
        (
            named(target="<compat>9</compat>"),
            XMLError,
            "XML error: forbidden characters in 'compat' attribute",
        ),
        (
            named(target="<features><x/></features>"),
            ConfigUnsupported,
            "unsupported configuration: unsupported feature x",
        ),
        (
            named(target="<nocow/>"),
            ConfigUnsupported,
            "unsupported configuration: volume/target/nocow is not supported by this driver",
        ),
        (
            named(target="<encryption format='b'/>"),
            ConfigUnsupported,
            "unsupported configuration: unknown volume encryption format type b",
        ),
        (
            named().replace("<volume>", "<volume type='blok'>"),
            ConfigUnsupported,
            "unsupported configuration: unknown volume type 'blok'",
        ),
    ],
)
def test_what_cannot_be(xml: str, error: type[EmbedError], message: str) -> None:
    with pytest.raises(error) as caught:
        volume.parse(xml)
    assert caught.value.message == message


def test_a_copy_needs_no_capacity() -> None:
    assert volume.parse(named(""), may_lack_capacity=True).capacity is None


@pytest.mark.parametrize("name", ["a/b", "/a", "../a", ".new-1"])
def test_a_name_that_is_none_of_a_file(name: str) -> None:
    with pytest.raises(OperationInvalid, match=f"volume name '{name}' cannot"):
        volume.require_name(name)


def test_an_encrypted_volume_has_one_secret() -> None:
    for wrong in ([], [Secret()], [Secret(usage="a"), Secret(usage="b")]):
        with pytest.raises(InvalidArgument, match="A single <secret type='passphrase'"):
            Encryption(format="luks", secrets=wrong).require_secret()
    assert Encryption(format="luks", secrets=[Secret(usage="a")]).require_secret().usage == "a"
